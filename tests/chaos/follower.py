"""A client that follows the store: it sees every revision once, in order, whichever node answers it."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from node.api import schemas
from node.client import BondstoneClient
from node.client.errors import NotExecutedError, UnreachableError
from tests.chaos.cluster import ChaosCluster, Node
from tests.chaos.ledger import REVISION_START, Change, Ledger, State

POLL_S: Final = 0.3
ATTEMPT_S: Final = 3.0


class Follower:
    """Reads weakly, at one node after the other, from where it stands: never back, nothing left out."""

    def __init__(self, cluster: ChaosCluster, ledger: Ledger, rng: random.Random) -> None:
        self._nodes = cluster.nodes
        self._clients = {
            node.number: cluster.client(node, deadline_s=ATTEMPT_S, attempt_s=ATTEMPT_S)
            for node in cluster.nodes
        }
        self._ledger = ledger
        self._rng = rng
        self._at: schemas.At | None = None
        self._revision = REVISION_START
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, errors: list[str]) -> None:
        """Follow in a thread of its own; what must never be seen goes to ``errors``."""
        self._thread = threading.Thread(target=self._run, args=(errors,), name="follower")
        self._thread.start()

    def stop(self) -> None:
        """Follow no more; ``step`` can still be asked for."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def _run(self, errors: list[str]) -> None:
        while not self._stop.wait(POLL_S):
            try:
                self.step(self._rng.choice(self._nodes))
            except Exception as exc:
                errors.append(f"follower: {type(exc).__name__}: {exc}")
                return

    def reach(self, at: schemas.At) -> None:
        """Take no answer any more from before this place in the log."""
        self._at = at

    def step(self, node: Node) -> bool:
        """Take everything new from one node; false if it gave no answer."""
        client = self._clients[node.number]
        try:
            revision, at, state = self._state(client, None)
            if revision < self._revision:
                raise AssertionError(
                    f"{node.name} answered as of revision {revision}, though {self._revision} was known at {self._at}"
                )
            news = {held[2]: Change(key, held[0], held[1]) for key, held in state.items()}
            found: dict[int, Change] = {}
            for number in range(revision, self._revision, -1):
                found[number] = news[number] if number in news else self._change(client, number)
                self._add_earlier(client, found[number], number, news)
        except (NotExecutedError, UnreachableError):
            return False
        self._ledger.changes.update(found)
        self._ledger.sights.append((node.name, revision, state))
        self._revision, self._at = revision, at
        return True

    def _add_earlier(
        self, client: BondstoneClient, change: Change, revision: int, news: dict[int, Change]
    ) -> None:
        """Look what the key held before: one question instead of two for each revision in between."""
        if change.version <= 1 or revision - 1 <= self._revision:
            return
        item = self._ask(client, {"op": "get", "key": change.key, "revision": revision - 1}).result["item"]
        if item is None:
            raise AssertionError(f"{change} at {revision}, but at {revision - 1} the key is absent")
        news[item["mod_revision"]] = Change(change.key, item["value"], item["version"])

    def _change(self, client: BondstoneClient, revision: int) -> Change:
        """Compare the store at two revisions: for deletes, and for lives that have ended since."""
        _, _, after = self._state(client, revision)
        for key, (value, version, changed_at) in after.items():
            if changed_at == revision:
                return Change(key, value, version)
        _, _, before = self._state(client, revision - 1)
        gone = before.keys() - after.keys()
        if len(gone) != 1:
            raise AssertionError(
                f"between revisions {revision - 1} and {revision} these went: {sorted(gone)}"
            )
        return Change(gone.pop(), None, 0)

    def _state(self, client: BondstoneClient, revision: int | None) -> tuple[int, schemas.At, State]:
        """Return the whole store, now or at a revision."""
        state: dict[str, tuple[str, int, int]] = {}
        query: dict[str, Any] = {"op": "list", "prefix": ""}
        at: schemas.At | None = None
        while True:
            if revision is not None:
                query["revision"] = revision
            answer = self._ask(client, query)
            at = at or answer.at
            revision = revision or int(answer.result["revision"])
            for item in answer.result["items"]:
                state[item["key"]] = (item["value"], int(item["version"]), int(item["mod_revision"]))
            if not answer.result["more"]:
                return revision, at, state
            query["after"] = answer.result["items"][-1]["key"]

    def _ask(self, client: BondstoneClient, query: dict[str, Any]) -> schemas.QueryResult:
        return client.query(query, consistency="weak", min_at=self._at)


@contextmanager
def following(
    cluster: ChaosCluster, ledger: Ledger, errors: list[str], rng: random.Random
) -> Iterator[Follower]:
    """Follow, at the latest until the context is left."""
    follower = Follower(cluster, ledger, rng)
    follower.start(errors)
    try:
        yield follower
    finally:
        follower.stop()
        follower.close()
