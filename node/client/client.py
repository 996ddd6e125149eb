"""The client proper: several nodes behind one object."""

import base64
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlencode

import httpx
import msgspec

from attestation.tickets.protocol import Cluster
from node.api import schemas
from node.api.freshness import boot_time_s
from node.api.limits import REPEATED_OF_TTL
from node.client.channel import (
    checked_url,
    client_tls_context,
    decode_answer,
    decode_problem,
    load_client_certificate,
    read_bounded,
    read_ca,
)
from node.client.confirmed import ConfirmedBy
from node.client.deadline import OVER, Deadline, bounded_client
from node.client.errors import (
    AlreadyExecutedError,
    AnswerInvalidError,
    ClientError,
    ClusterChangedError,
    NotExecutedError,
    OutcomeUnknownError,
    RefusedError,
    UnreachableError,
)
from node.client.items import Item, field_of, item_of, member_of
from node.errors import ConfigError

DEADLINE_S_DEFAULT: Final = 15.0
ATTEMPT_TIMEOUT_S_DEFAULT: Final = 12.0  # a node gives up on a command after 10 s
CONNECT_TIMEOUT_S: Final = 3.0
SESSION_TTL_S_DEFAULT: Final = 60.0
# Keys of writes that may have happened, with the time of the first copy; beyond it the oldest is forgotten.
_DOUBTFUL_KEYS_MAX: Final = 10_000
_SHARE_OF_FIRST: Final = 0.8
_BACK_OFF_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
# The request was not executed, and this or another node may execute it now.
_TRY_ELSEWHERE: Final = frozenset(
    {
        "not-executed",
        "not-ready",
        "overloaded",
        "evidence-busy",
        "credentials-busy",
        "query-timeout",
        "access-not-current",
    }
)
CLUSTER_FIELD: Final = "bondstone-cluster"
T = TypeVar("T")


class BondstoneClient:
    """See the package's documentation. For one thread.

    Args:
        urls: the nodes' APIs, such as ``https://127.0.0.1:8443``; at least one.
        token: bearer token, or None when a client certificate is used.
        ca: PEM file with the nodes' self-signed certificates; read again when it changes, because a
            restarted node has a new one.
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
        ca: Path,
        client_certificate: tuple[Path, Path] | None = None,
        deadline_s: float = DEADLINE_S_DEFAULT,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S_DEFAULT,
        cluster: str | None = None,
        confirmed_by: ConfirmedBy | None = None,
        session_ttl_s: float = SESSION_TTL_S_DEFAULT,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = boot_time_s,
    ) -> None:
        if not urls:
            raise ConfigError("give at least one URL, each beginning with https://")
        self._urls = [checked_url(url) for url in urls]
        self._headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._cluster = None if cluster is None else _cluster_of(cluster)
        self._unconfirmed = confirmed_by
        self._ca = ca
        self._client_certificate = client_certificate
        self._deadline_s = deadline_s
        self._timeout = httpx.Timeout(attempt_timeout_s, connect=CONNECT_TIMEOUT_S)
        # The client may send a copy up to two connect timeouts (TCP, then TLS) after it decided to.
        self._repeat_s = session_ttl_s * REPEATED_OF_TTL - 2 * CONNECT_TIMEOUT_S
        self._doubtful: OrderedDict[str, float] = OrderedDict()
        self._sleep = sleep
        self._clock = clock
        self._deadline = Deadline(clock)
        self._ca_pem = read_ca(ca)
        self._http = self._new_http()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def cluster(self) -> str | None:
        """The cluster that this client knows, as ``ID/GENERATION``; None before its first answer."""
        return self._cluster

    def close(self) -> None:
        """Close the connections."""
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
        return self._write({"command": command}, idempotency_key, schemas.CommandResult)

    def feed(self, command: Any, *, idempotency_key: str | None = None) -> schemas.Accepted:
        """Submit a command and return its place in the log, before it is committed."""
        return self._write({"command": command, "wait": "accepted"}, idempotency_key, schemas.Accepted)

    def execute_many(
        self, commands: Sequence[Any], *, idempotency_key: str | None = None
    ) -> schemas.CommandResults:
        """Execute commands as one atomic entry. Raises as ``execute``."""
        return self._write({"commands": list(commands)}, idempotency_key, schemas.CommandResults)

    def query(
        self,
        query: Any,
        *,
        consistency: str = "strong",
        min_at: schemas.At | None = None,
        max_age_ms: int | None = None,
    ) -> schemas.QueryResult:
        """Query the state machine. Raises as ``execute``, but never OutcomeUnknownError."""
        asked: dict[str, Any] = {"query": query, "consistency": consistency}
        if min_at is not None:
            asked["min_at"] = {"term": min_at.term, "index": min_at.index}
        if max_age_ms is not None:
            asked["max_age_ms"] = max_age_ms
        return self._call("POST", "/v1/queries", schemas.QueryResult, body=asked)

    # ---- the key-value machine ----------------------------------------------------
    def put(self, key: str | bytes, value: str | bytes) -> int:
        """Set a key and return the store's new revision."""
        command = {"op": "put", **field_of("key", key), **field_of("value", value)}
        return int(member_of(self.execute(command).result, "revision"))

    def get(self, key: str | bytes, *, consistency: str = "strong") -> Item | None:
        """Return what a key holds, or None."""
        answer = self.query({"op": "get", **field_of("key", key)}, consistency=consistency).result
        item = member_of(answer, "item")
        return None if item is None else item_of(item)

    def delete(self, key: str | bytes) -> bool:
        """Delete a key; False if it was not there."""
        return bool(member_of(self.execute({"op": "delete", **field_of("key", key)}).result, "deleted"))

    def compare_and_swap(
        self, key: str | bytes, *, expect: str | bytes | None, value: str | bytes | None
    ) -> bool:
        """Set a key (None: delete it) if it holds ``expect`` (None: if it is absent); False if not."""
        command = {
            "op": "cas",
            **field_of("key", key),
            **field_of("expect", expect),
            **field_of("value", value),
        }
        return bool(member_of(self.execute(command).result, "swapped"))

    def list(self, prefix: str | bytes = b"", *, consistency: str = "strong") -> Iterator[Item]:
        """Yield every key with the prefix, in byte order, page by page; each page is consistent."""
        query = start = {"op": "list", **field_of("prefix", prefix)}
        while True:
            page = self.query(query, consistency=consistency).result
            items = [item_of(item) for item in member_of(page, "items")]
            yield from items
            if not member_of(page, "more") or not items:
                return
            query = {**start, **field_of("after", items[-1].key)}

    # ---- the group, attestation, audit -----------------------------------------------
    def ready(self) -> schemas.Ready:
        """Return as soon as a node is online in its group; NotExecutedError with the reason if none is."""
        return self._call("GET", "/readyz", schemas.Ready)

    def group(self) -> schemas.Group:
        return self._call("GET", "/v1/group", schemas.Group)

    def members(self) -> schemas.Members:
        return self._call("GET", "/v1/members", schemas.Members)

    def safe_to_stop(self, member: str) -> schemas.SafeToStop:
        """Return whether the member with this name or peer id can stop now, as the leader judges it.

        Only the leader can: this asks one node after another. ``unknown`` if none of them leads.
        """
        path = f"/v1/safe-to-stop?{urlencode({'member': member})}"
        answer = self._call("GET", path, schemas.SafeToStop)
        for _ in self._urls[1:]:
            if answer.verdict != "unknown":
                break
            self._urls.append(self._urls.pop(0))  # that node answered; now the next one
            answer = self._call("GET", path, schemas.SafeToStop)
        return answer

    def transfer_leadership(self, target: str | None = None) -> schemas.Transferred:
        """Make the leader hand over, to the member with this name or peer id, otherwise to the best voter.

        A repetition hands over once: each copy names the leader that is to hand over. Role ``admin``.

        Raises:
            RefusedError: also ``transfer-refused``, if the target is not connected or has not caught up.
        """
        leader = self.group().leader
        body = {key: value for key, value in (("target", target), ("leader", leader)) if value is not None}
        return self._call("POST", "/v1/members/transfer", schemas.Transferred, body=body)

    def remove_member(self, member: str) -> schemas.Removed:
        """Remove the member with this name or peer id from the group for good. Role ``admin``.

        A repetition removes nothing else: the name is looked up once, and each copy has the peer id.

        Raises:
            RefusedError: also ``removal-refused``, if the group cannot spare it now.
        """
        named = [one.peer_id for one in self.members().members if one.name == member]
        which = named[0] if len(named) == 1 else member
        return self._call("DELETE", f"/v1/members?{urlencode({'member': which})}", schemas.Removed)

    def survivor(self) -> schemas.Survivor:
        """Return what the first node would found a new generation from. Role ``admin``."""
        return self._call("GET", "/v1/recovery", schemas.Survivor)

    def recover(self, log_end: schemas.LogEnd, approval: bytes = b"") -> schemas.Recovered:
        """Let the node found a new generation: another cluster, which this client knows afterwards.

        Give a client of the survivor alone. Role ``admin``; ``approval``: of the group's authority.

        Raises:
            RefusedError: also ``recovery-refused``, and nothing has changed.
        """
        body: dict[str, Any] = {"log_end": msgspec.to_builtins(log_end)}
        if approval:
            body["approval"] = base64.b64encode(approval).decode()
        known, self._cluster = self._cluster, None
        try:
            return self._call("POST", "/v1/recovery", schemas.Recovered, body=body)
        except BaseException:
            self._cluster = known
            raise

    def bonds(self) -> schemas.Bonds:
        return self._call("GET", "/v1/bonds", schemas.Bonds)

    def peers(self) -> schemas.PeersEvidence:
        """Return each bonded peer's evidence (role ``audit``)."""
        return self._call("GET", "/v1/attestation/peers", schemas.PeersEvidence)

    def audit_events(self, *, after: int = 0, limit: int = 100) -> Sequence[Mapping[str, Any]]:
        """Return records of the first node's audit log (each node has its own)."""
        path = f"/v1/audit/events?after={after}&limit={limit}"
        return self._call("GET", path, schemas.AuditEvents).events

    def audit_head(self) -> dict[str, Any]:
        return self._call("GET", "/v1/audit/head", dict[str, Any])

    # ---- who may call (role ``admin``) ---------------------------------------------------
    def access(self) -> schemas.AccessListing:
        """Return the access list: every credential that may call the group."""
        return self._call("GET", "/v1/access", schemas.AccessListing)

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
        given = {
            "token_sha256": token_sha256,
            "certificate_pem": certificate_pem,
            "password": password,
            "prefixes": list(prefixes) or None,
            "expires_at": expires_at,
        }
        body = {"name": name, "roles": list(roles)} | {k: v for k, v in given.items() if v is not None}
        key = idempotency_key or secrets.token_urlsafe(18)
        return self._call("POST", "/v1/access", schemas.AccessChanged, body=body, key=key)

    def revoke(
        self, name: str, *, force: bool = False, idempotency_key: str | None = None
    ) -> schemas.AccessChanged:
        """Remove a caller from the access list; ``force``: even the last admin. Raises as ``execute``."""
        asked = urlencode({"name": name, "force": "true" if force else "false"})
        key = idempotency_key or secrets.token_urlsafe(18)
        return self._call("DELETE", f"/v1/access?{asked}", schemas.AccessChanged, key=key)

    # ---- sending ------------------------------------------------------------------
    def _write(self, body: dict[str, Any], key: str | None, answer_type: type[T]) -> T:
        return self._call(
            "POST", "/v1/commands", answer_type, body=body, key=key or secrets.token_urlsafe(18)
        )

    def _call(
        self,
        method: str,
        path: str,
        answer_type: type[T],
        *,
        body: dict[str, Any] | None = None,
        key: str | None = None,
    ) -> T:
        """Send until a node gives a final answer.

        Every request here may safely be sent twice: it is a read, or a write with its key.
        """
        self._require_confirmed()
        headers = dict(self._headers)
        if key is not None:
            headers["idempotency-key"] = key
        content = None if body is None else msgspec.json.encode(body)
        if content is not None:
            headers["content-type"] = "application/json"
        attempts = _Attempts(key, None if key is None else self._doubtful.get(key))
        try:
            return decode_answer(self._answer(method, path, headers, content, attempts), answer_type)
        finally:
            self._remember(attempts)

    def _require_confirmed(self) -> None:
        """Ask for the birth certificate before the first call, and pin the cluster that it names.

        Raises:
            ClusterNotConfirmedError: there is no valid birth certificate.
            ClusterChangedError: it confirms another cluster than the one that the caller named.
        """
        required, named = self._unconfirmed, self._cluster
        if required is None:
            return
        self._unconfirmed = None  # for the call that asks
        try:
            answer = self._call("GET", "/v1/birth-certificate", schemas.BirthCertificate)
            confirmed = str(required.cluster_of_untrusted(answer.birth_certificate))
            if self._cluster != confirmed:
                raise ClusterChangedError(known=confirmed, answered=self._cluster, executed=False)
        except BaseException:
            self._unconfirmed, self._cluster = required, named
            raise

    def _answer(
        self, method: str, path: str, headers: dict[str, str], content: bytes | None, attempts: "_Attempts"
    ) -> bytes:
        """Return the body of a success."""
        give_up = self._clock() + self._deadline_s
        for number, (url, pause_s) in enumerate(self._order()):
            at = self._clock() + pause_s
            if (number and at >= give_up) or attempts.too_old(at - self._repeat_s):
                break
            if pause_s:
                self._sleep(pause_s)
            attempts.begin(at)
            left_s = give_up - at
            if number + 1 < len(self._urls):
                left_s *= _SHARE_OF_FIRST  # leaves time for the other nodes if the first does not answer
            self._deadline.set(at + left_s)
            try:
                status, answer = self._send(method, url + path, headers, content)
            except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
                attempts.failed(exc, sent=False)
                self._reload_ca()
                continue
            except httpx.TransportError as exc:
                attempts.failed(exc, sent=True)
                continue
            if 200 <= status < 300:
                self._prefer(url)
                if status == httpx.codes.ALREADY_REPORTED:
                    raise AlreadyExecutedError(decode_answer(answer, schemas.AlreadyExecuted))
                return answer
            attempts.refused(status, answer)
        raise attempts.error()

    def _remember(self, attempts: "_Attempts") -> None:
        """Keep the time of the first copy: a later call may use the key, whose TTL began with that copy."""
        if attempts.key is not None and attempts.doubtful_since is not None:
            self._doubtful[attempts.key] = attempts.doubtful_since
            if len(self._doubtful) > _DOUBTFUL_KEYS_MAX:
                self._doubtful.popitem(last=False)

    def _order(self) -> Iterator[tuple[str, float]]:
        """Yield the nodes to try, without end, and how long to wait before each: 0 within a round."""
        yield from ((url, 0.0) for url in list(self._urls))
        round_number = 0
        while True:
            pause_s = _BACK_OFF_S[min(round_number, len(_BACK_OFF_S) - 1)]
            for url in list(self._urls):
                yield url, pause_s
                pause_s = 0.0
            round_number += 1

    def _prefer(self, url: str) -> None:
        if self._urls[0] != url:
            self._urls.remove(url)
            self._urls.insert(0, url)

    def _send(
        self, method: str, url: str, headers: dict[str, str], content: bytes | None
    ) -> tuple[int, bytes]:
        named = {} if self._cluster is None else {CLUSTER_FIELD: self._cluster}
        with self._http.stream(method, url, headers=headers | named, content=content) as response:
            status = response.status_code
            self._require_cluster(response, executed=method != "GET" and status < httpx.codes.BAD_REQUEST)
            return status, read_bounded(response)

    def _require_cluster(self, response: httpx.Response, *, executed: bool) -> None:
        """Pin the first cluster that answers, and refuse every other.

        Raises:
            ClusterChangedError: another cluster answered, or a success names none.
        """
        answered = response.headers.get(CLUSTER_FIELD)
        if self._cluster is None:
            if answered is not None:
                self._cluster = _cluster_of(answered)
        elif answered is None:
            if executed:
                raise ClusterChangedError(known=self._cluster, answered=None, executed=True)
        elif answered != self._cluster:
            raise ClusterChangedError(known=self._cluster, answered=answered[:80], executed=executed)

    def _new_http(self) -> httpx.Client:
        context = client_tls_context(self._ca_pem)
        if self._client_certificate is not None:
            load_client_certificate(context, *self._client_certificate)
        return bounded_client(context, self._deadline, self._timeout)

    def _reload_ca(self) -> None:
        pem = read_ca(self._ca)
        if pem != self._ca_pem:
            self._ca_pem = pem
            self._http.close()
            self._http = self._new_http()


def _cluster_of(text: str) -> str:
    """Return the text of a cluster as nodes send it.

    Raises:
        ConfigError: ``text`` names no cluster.
    """
    try:
        return str(Cluster.from_text_untrusted(text))
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc


class _Attempts:
    """The attempts at one call, and the outcome that follows from them.

    Args:
        key: of a write; None for a read.
        doubtful_since: when the first copy with an unknown outcome was sent; None if no such copy was sent.
    """

    def __init__(self, key: str | None, doubtful_since: float | None) -> None:
        self.key = key
        self.doubtful_since = doubtful_since
        self._before = doubtful_since  # the last attempt
        self._last_problem: schemas.Problem | None = None
        self._last_error: Exception | None = None

    def too_old(self, limit: float) -> bool:
        """Return whether the group may have forgotten a write whose first copy was sent at ``limit``."""
        return self.key is not None and self.doubtful_since is not None and self.doubtful_since <= limit

    def begin(self, at: float) -> None:
        """A copy is sent now. From now on it counts as possibly executed until an answer excludes that."""
        self._before = self.doubtful_since
        if self.doubtful_since is None:
            self.doubtful_since = at

    def failed(self, exc: Exception, *, sent: bool) -> None:
        # The end of the time explains less than an earlier error.
        if self._last_error is None or str(exc) != OVER:
            self._last_error = exc
        if not sent:
            self.doubtful_since = self._before

    def refused(self, status: int, answer: bytes) -> None:
        """Take the answer of a node that did not do it; raise it if it is final."""
        try:
            problem = decode_problem(status, answer)
        except AnswerInvalidError as exc:
            if self.key is None:
                raise
            self.failed(exc, sent=True)  # whatever answered may have forwarded it to the node
            return
        self._last_problem = problem
        if problem.code == "outcome-unknown":
            # Without its session the group no longer knows the key: repeating could execute it twice.
            if isinstance(problem.reason, str) and problem.reason.startswith("session"):
                raise self.error()
            return
        if problem.code == "internal-error" and self.key is not None:
            raise self.error()
        self.doubtful_since = self._before
        if problem.code not in _TRY_ELSEWHERE:
            raise RefusedError(problem)

    def error(self) -> ClientError:
        """Return the error to raise when no time is left."""
        if self.doubtful_since is not None and self.key is not None:
            return OutcomeUnknownError(f"it may or may not have happened: {self._last()}", self.key)
        if self._last_problem is not None:
            return NotExecutedError(self._last_problem)
        return UnreachableError(f"no node answered: {self._last()}")

    def _last(self) -> str:
        if self._last_problem is not None:
            return self._last_problem.detail
        return str(self._last_error or "too long ago to send it again; check its effect")
