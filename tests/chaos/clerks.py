"""Clients of a cluster under chaos."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from node.api import schemas
from node.client import BondstoneClient
from node.client.errors import NotExecutedError, OutcomeUnknownError, UnreachableError
from tests.chaos.cluster import ChaosCluster
from tests.chaos.history import ABSENT, Call, History, Outcome, Register

ROAMERS: Final = 3
THINK_S: Final = (0.005, 0.06)
_ACTIONS: Final = ("put", "cas", "get", "session", "pair", "delete")
_WEIGHTS: Final = (30, 25, 28, 8, 5, 4)


@dataclass(frozen=True, slots=True)
class Written:
    """One's own last acknowledged write."""

    key: str
    revision: int
    at: schemas.At


class Clerk:
    """One client: one call after the other on keys that all clients share. ``at``: of its last strong read."""

    def __init__(self, name: str, client: BondstoneClient, history: History, rng: random.Random) -> None:
        self._name = name
        self._client = client
        self._history = history
        self._rng = rng
        self._serial = 0
        self._seen: dict[str, Register] = {}
        self._written: Written | None = None
        self.at = schemas.At(term=0, index=0)

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop``. What no client may ever see goes to ``history.errors``."""
        with self._client:
            while not stop.wait(self._rng.uniform(*THINK_S)):
                try:
                    self._one()
                except Exception as exc:
                    self._history.errors.append(f"{self._name}: {type(exc).__name__}: {exc}")
                    return

    def _one(self) -> None:
        key = self._history.next_key()
        match self._rng.choices(_ACTIONS, _WEIGHTS)[0]:
            case "put":
                self._write(self._asked(key, "put", value=self._new_value()))
            case "cas":
                expect, _ = self._seen.get(key, ABSENT)
                self._write(self._asked(key, "cas", expect=expect, value=self._new_value()))
            case "delete":
                self._write(self._asked(key, "delete"))
            case "pair":
                number = self._history.next_batch()
                keys = (key, f"{key}-twin")
                self._write(*(self._asked(k, "put", value=self._new_value(), batch=number) for k in keys))
            case "get":
                self.read(key)
            case _:
                self._read_own_write()

    def _new_value(self) -> str:
        self._serial += 1
        return f"{self._name}.{self._serial}"

    def _asked(self, key: str, kind: str, **fields: Any) -> Call:
        return Call(
            client=self._name,
            kind=kind,
            key=key,
            invoked=time.monotonic_ns(),
            returned=None,
            outcome=Outcome.UNKNOWN,
            **fields,
        )

    def _write(self, *asked: Call) -> None:
        """Send one entry with these commands, and record what became of each."""
        commands = [_command(call) for call in asked]
        try:
            done = self._client.execute_many(commands)
        except OutcomeUnknownError:
            ended: list[Call] = list(asked)
        except (NotExecutedError, UnreachableError):
            ended = [replace(call, outcome=Outcome.REFUSED) for call in asked]
        else:
            now = time.monotonic_ns()
            answered = zip(asked, done.results, strict=True)
            ended = [_answered(call, result, now) for call, result in answered]
            self._remember(ended, schemas.At(term=done.term, index=done.index))
        self._history.record(ended)

    def _remember(self, ended: list[Call], at: schemas.At) -> None:
        for call in ended:
            if call.found is not None:
                self._seen[call.key] = call.found
            elif call.changed:
                self._seen[call.key] = (call.value, 0)
            self._written = Written(call.key, call.revision, at)

    def read(self, key: str) -> Call | None:
        """Read strongly; None if nobody answered."""
        asked = self._asked(key, "get")
        try:
            answer = self._client.query({"op": "get", "key": key})
        except (NotExecutedError, UnreachableError):
            return None
        ended = _answered(asked, answer.result, time.monotonic_ns())
        assert ended.found is not None
        self._seen[key] = ended.found
        self.at = answer.at
        self._history.record([ended])
        return ended

    def _read_own_write(self) -> None:
        """Read one's own last write from whatever node answers: weak, but not older than the write."""
        written = self._written
        if written is None:
            return
        asked = self._asked(written.key, "get", weak=True)
        try:
            answer = self._client.query(
                {"op": "get", "key": written.key}, consistency="weak", min_at=written.at
            )
        except (NotExecutedError, UnreachableError):
            return
        ended = _answered(asked, answer.result, time.monotonic_ns())
        if ended.revision < written.revision:
            self._history.errors.append(
                f"{self._name}: was acknowledged {written}, and then read {written.key} as of {ended.revision}"
            )
        self._history.record([ended])


def _command(call: Call) -> dict[str, Any]:
    match call.kind:
        case "put":
            return {"op": "put", "key": call.key, "value": call.value}
        case "cas":
            return {"op": "cas", "key": call.key, "expect": call.expect, "value": call.value}
        case _:
            return {"op": "delete", "key": call.key}


def _answered(call: Call, result: dict[str, Any], now: int) -> Call:
    """Return the call with what the state machine answered."""
    found: Register | None
    match call.kind:
        case "put":
            changed, found = True, (call.value, int(result["version"]))
        case "delete":
            changed, found = bool(result["deleted"]), ABSENT
        case "cas" if result["swapped"]:
            changed, found = True, None
        case _:
            item = result["item"]
            changed = False
            found = ABSENT if item is None else (item["value"], int(item["version"]))
    return replace(
        call,
        returned=now,
        outcome=Outcome.ANSWERED,
        revision=int(result["revision"]),
        changed=changed,
        found=found,
    )


@contextmanager
def clerks_at_work(cluster: ChaosCluster, history: History, rng: random.Random) -> Iterator[None]:
    """Clients that go to any node, and one at each node that never leaves it, whatever happens to it."""
    stop = threading.Event()
    clients = []
    for number in range(ROAMERS):
        nodes = rng.sample(cluster.nodes, len(cluster.nodes))
        clients.append((f"roamer-{number}", cluster.client(*nodes, deadline_s=5, attempt_s=2)))
    for node in cluster.nodes:
        clients.append((f"at-{node.name}", cluster.client(node, deadline_s=3, attempt_s=3)))
    threads = [
        threading.Thread(
            target=Clerk(name, client, history, random.Random(rng.random())).run, args=(stop,), name=name
        )
        for name, client in clients
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def read_everything(clerk: Clerk, keys: list[str]) -> schemas.At:
    """Read every key strongly, as part of the history: that is where a lost write would show.

    Returns:
        the place in the log of the last answer.
    """
    for key in keys:
        assert clerk.read(key) is not None, f"{key} cannot be read although the faults have ended"
    return clerk.at
