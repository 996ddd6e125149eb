"""The client for programs without an event loop."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from node.api import schemas
from node.api.freshness import boot_time_s
from node.client.calls import Calls
from node.client.channel import read_bounded
from node.client.confirmed import ConfirmedBy
from node.client.deadline import Deadline, bounded_client
from node.client.exchange import CLUSTER_FIELD, Answered, Call, NoAnswer, Pause, Reply, SendRequest, Step
from node.client.items import Item
from node.client.options import (
    ATTEMPT_TIMEOUT_S_DEFAULT,
    CONNECT_TIMEOUT_S,
    DEADLINE_S_DEFAULT,
    SESSION_TTL_S_DEFAULT,
    new_exchange,
)
from node.client.settings import DEV_DIRECTORY, Destination, settings_of, settings_of_dev
from node.client.trust import NOT_TRUSTED, Contexts, VerifiedBy, trust_of

T = TypeVar("T")


class Client:
    """See the package's documentation. For one thread.

    Args:
        urls: the nodes' APIs, such as ``https://127.0.0.1:8443``; at least one.
        token: bearer token, or None when a client certificate is used.
        ca: PEM file with the nodes' certificates, or their authority's; read again when a connection fails,
            because a restarted node may have a new one.
        verified_by: what the nodes must prove, instead of ``ca``: this client verifies a node's evidence, and
            sends requests only over connections with the key that the evidence names.
        client_certificate: PEM files of certificate and key, instead of a token.
        deadline_s: when to give up on one call with all its repetitions at all nodes. It bounds everything
            except the look-up of a host's name.
        attempt_timeout_s: when to give up on one node's answer.
        cluster: the cluster that must answer, as ``ID/GENERATION`` or ``ID``; None takes the first one that
            answers over a channel that ``ca`` authenticates. Every later request names it, so that no other
            cluster executes anything, and every answer must.
        confirmed_by: the authority that must have signed which cluster is the group. The client first fetches
            the birth certificate, and then sends requests to that cluster only (docs/clusters.md).
        session_ttl_s: the group's ``session_ttl_ms``, in seconds. The client repeats a write that may have
            happened for less than half of that, even before the deadline: the group must still know its key.
        sleep: waits this many seconds.
        clock: monotonic seconds that go on while the machine sleeps.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        token: str | None,
        ca: Path | None = None,
        verified_by: VerifiedBy | None = None,
        client_certificate: tuple[Path, Path] | None = None,
        deadline_s: float = DEADLINE_S_DEFAULT,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S_DEFAULT,
        cluster: str | None = None,
        confirmed_by: ConfirmedBy | None = None,
        session_ttl_s: float = SESSION_TTL_S_DEFAULT,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = boot_time_s,
    ) -> None:
        self._exchange = new_exchange(
            urls,
            token=token,
            cluster=cluster,
            deadline_s=deadline_s,
            session_ttl_s=session_ttl_s,
            clock=clock,
        )
        self._calls = Calls(self._exchange, confirmed_by)
        self._trust = trust_of(ca, verified_by)
        self._timeout = httpx.Timeout(attempt_timeout_s, connect=CONNECT_TIMEOUT_S)
        self._sleep = sleep
        self._deadline = Deadline(clock)
        self._contexts = Contexts(self._trust, client_certificate)
        self._http: httpx.Client | None = None
        self._pem = b""  # the certificates that ``_http`` trusts

    @classmethod
    def from_env(cls, **more: Any) -> Self:
        """Return a client for the cluster that ``BONDSTONE_URL``, ``_TOKEN``, ``_CA`` and ``_CLUSTER`` name.

        Args:
            more: further arguments of the class.

        Raises:
            ConfigError: something is missing or malformed.
        """
        return cls._of(settings_of(), more)

    @classmethod
    def from_dev(cls, directory: Path = DEV_DIRECTORY, **more: Any) -> Self:
        """Return a client for the local cluster that `bondstone dev` runs with this directory.

        Raises:
            ConfigError: there is none, or its files are malformed.
        """
        return cls._of(settings_of_dev(directory), more)

    @classmethod
    def _of(cls, target: Destination, more: dict[str, Any]) -> Self:
        ca = None if "verified_by" in more else target.ca
        return cls(target.urls, **{"token": target.token, "ca": ca, "cluster": target.cluster} | more)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def cluster(self) -> str | None:
        """The cluster that this client knows, as ``ID/GENERATION``; None before its first answer."""
        return self._exchange.cluster

    def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            self._http.close()

    # ---- any state machine ------------------------------------------------------
    def execute(self, command: Any, *, idempotency_key: str | None = None) -> schemas.CommandResult:
        """Execute one command exactly once.

        Args:
            command: JSON-able.
            idempotency_key: of an earlier try of the same write; by default a fresh key. If another object
                made that try, or 10,000 later writes also ended in doubt, only the caller can know its age.

        Raises:
            RefusedError, NotExecutedError, UnreachableError, AnswerInvalidError, ClusterChangedError.
            AlreadyExecutedError: an earlier copy was executed, and its results are not kept.
            OutcomeUnknownError: also, with nothing sent, if the earlier try was too long ago.
        """
        return self._run(self._calls.execute(command, idempotency_key))

    def feed(self, command: Any, *, idempotency_key: str | None = None) -> schemas.Accepted:
        """Submit a command and return its place in the log, before it is committed."""
        return self._run(self._calls.feed(command, idempotency_key))

    def execute_many(
        self, commands: Sequence[Any], *, idempotency_key: str | None = None
    ) -> schemas.CommandResults:
        """Execute commands as one atomic entry. Raises as ``execute``."""
        return self._run(self._calls.execute_many(commands, idempotency_key))

    def query(
        self,
        query: Any,
        *,
        consistency: str = "strong",
        min_at: schemas.At | None = None,
        max_age_ms: int | None = None,
    ) -> schemas.QueryResult:
        """Query the state machine. Raises as ``execute``, but never OutcomeUnknownError."""
        return self._run(self._calls.query(query, consistency, min_at, max_age_ms))

    # ---- the key-value machine ----------------------------------------------------
    def put(self, key: str | bytes, value: str | bytes) -> int:
        """Set a key and return the store's new revision."""
        return self._run(self._calls.put(key, value))

    def get(self, key: str | bytes, *, consistency: str = "strong") -> Item | None:
        """Return what a key holds, or None."""
        return self._run(self._calls.get(key, consistency))

    def delete(self, key: str | bytes) -> bool:
        """Delete a key; False if it was not there."""
        return self._run(self._calls.delete(key))

    def compare_and_swap(
        self, key: str | bytes, *, expect: str | bytes | None, value: str | bytes | None
    ) -> bool:
        """Set a key (None: delete it) if it holds ``expect`` (None: if it is absent); False if not."""
        return self._run(self._calls.compare_and_swap(key, expect, value))

    def list(self, prefix: str | bytes = b"", *, consistency: str = "strong") -> Iterator[Item]:
        """Yield every key with the prefix, in byte order, page by page; each page is consistent."""
        after: bytes | None = None
        more = True
        while more:
            items, more = self._run(self._calls.page(prefix, after, consistency))
            yield from items
            after = items[-1].key if items else after

    # ---- the group, attestation, audit -----------------------------------------------
    def ready(self) -> schemas.Ready:
        """Return as soon as a node is online in its group; NotExecutedError with the reason if none is."""
        return self._run(self._calls.ready())

    def group(self) -> schemas.Group:
        return self._run(self._calls.group())

    def members(self) -> schemas.Members:
        return self._run(self._calls.members())

    def safe_to_stop(self, member: str) -> schemas.SafeToStop:
        """Return whether the member with this name or peer id can stop now, as the leader judges it.

        Only the leader can: this asks one node after another. ``unknown`` if none of them leads.
        """
        return self._run(self._calls.safe_to_stop(member))

    def transfer_leadership(self, target: str | None = None) -> schemas.Transferred:
        """Make the leader hand over, to the member with this name or peer id, otherwise to the best voter.

        A repetition hands over once: each copy names the leader that is to hand over. Role ``admin``.

        Raises:
            RefusedError: also ``transfer-refused``, if the target is not connected or has not caught up.
        """
        return self._run(self._calls.transfer_leadership(target))

    def remove_member(self, member: str) -> schemas.Removed:
        """Remove the member with this name or peer id from the group for good. Role ``admin``.

        A repetition removes nothing else: the name is looked up once, and each copy has the peer id.

        Raises:
            RefusedError: also ``removal-refused``, if the group cannot spare it now.
        """
        return self._run(self._calls.remove_member(member))

    def survivor(self) -> schemas.Survivor:
        """Return what the first node would found a new generation from. Role ``admin``."""
        return self._run(self._calls.survivor())

    def recover(self, log_end: schemas.LogEnd, approval: bytes = b"") -> schemas.Recovered:
        """Let the node found a new generation: another cluster, which this client knows afterwards.

        Give a client of the survivor alone. Role ``admin``; ``approval``: of the group's authority.

        Raises:
            RefusedError: also ``recovery-refused``, and nothing has changed.
        """
        return self._run(self._calls.recover(log_end, approval))

    def bonds(self) -> schemas.Bonds:
        return self._run(self._calls.bonds())

    def peers(self) -> schemas.PeersEvidence:
        """Return each bonded peer's evidence (role ``audit``)."""
        return self._run(self._calls.peers())

    def audit_events(self, *, after: int = 0, limit: int = 100) -> Sequence[Mapping[str, Any]]:
        """Return records of the first node's audit log (each node has its own)."""
        return self._run(self._calls.audit_events(after, limit))

    def audit_head(self) -> dict[str, Any]:
        return self._run(self._calls.audit_head())

    # ---- who may call (role ``admin``) ---------------------------------------------------
    def access(self) -> schemas.AccessListing:
        """Return the access list: every credential that may call the group."""
        return self._run(self._calls.access())

    def grant(
        self,
        name: str,
        roles: Sequence[str],
        *,
        token_sha256: str | None = None,
        certificate_pem: str | None = None,
        password: str | None = None,
        prefixes: Sequence[str] = (),
        expires_at: datetime | None = None,
        idempotency_key: str | None = None,
    ) -> schemas.AccessChanged:
        """Let a caller in that shows a token with this digest, this certificate, or ``name`` and a password.

        Give exactly one of the three. Raises as ``execute``.
        """
        call = self._calls.grant(
            name,
            roles,
            token_sha256=token_sha256,
            certificate_pem=certificate_pem,
            password=password,
            prefixes=prefixes,
            expires_at=expires_at,
            key=idempotency_key,
        )
        return self._run(call)

    def revoke(
        self, name: str, *, force: bool = False, idempotency_key: str | None = None
    ) -> schemas.AccessChanged:
        """Remove a caller from the access list; ``force``: even the last admin. Raises as ``execute``."""
        return self._run(self._calls.revoke(name, force=force, key=idempotency_key))

    # ---- carrying it out ------------------------------------------------------------
    def _run(self, call: Call[T]) -> T:
        if self._calls.unconfirmed:
            self._carry_out(self._calls.confirm())
        return self._carry_out(call)

    def _carry_out(self, call: Call[T]) -> T:
        reply: Reply = None
        try:
            while True:
                reply = self._step(call.send(reply))
        except StopIteration as end:
            answer: T = end.value
            return answer
        finally:
            call.close()

    def _step(self, step: Step) -> Reply:
        match step:
            case Pause(seconds):
                self._sleep(seconds)
                return None
            case SendRequest():
                return self._send(step)

    def _send(self, send: SendRequest) -> Answered | NoAnswer:
        self._deadline.set(send.end_at)
        try:
            http = self._http_for(send)
        except NOT_TRUSTED as exc:
            return NoAnswer(exc, sent=False)
        try:
            with http.stream(send.method, send.url, headers=send.headers, content=send.content) as response:
                named = response.headers.get(CLUSTER_FIELD)
                return Answered(response.status_code, named, read_bounded(response))
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            self._trust.failed(send.base)
            return NoAnswer(exc, sent=False)
        except httpx.TransportError as exc:
            return NoAnswer(exc, sent=True)

    def _http_for(self, send: SendRequest) -> httpx.Client:
        """Return connections that trust this node, or raise one of ``NOT_TRUSTED``."""
        left_s = self._deadline.left(None)
        assert left_s is not None, "it was set a moment ago"
        pem = self._trust.pem_for(send.base, self._exchange.cluster, left_s)
        if self._http is None or pem != self._pem:
            self.close()
            self._http = bounded_client(self._contexts.of(pem), self._deadline, self._timeout)
            self._pem = pem
        return self._http


# The name of earlier releases.
BondstoneClient = Client
