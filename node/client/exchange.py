"""A call as a conversation with several nodes, without I/O: which node next, when, and what its answer means.

A call is a generator. It yields a ``Pause`` or a ``SendRequest``, and receives what became of it. ``Client``
and ``AsyncClient`` carry these steps out; every decision about repeating a request is here, once.
"""

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final, TypeVar

import httpx
import msgspec
from msgspec import Struct

from attestation.tickets.protocol import Cluster
from node.api import schemas
from node.client.channel import decode_answer, decode_problem
from node.client.deadline import OVER
from node.client.errors import (
    AlreadyExecutedError,
    AnswerInvalidError,
    ClientError,
    ClusterChangedError,
    NodeRefusedError,
    NotExecutedError,
    OutcomeUnknownError,
    RefusedError,
    UnreachableError,
)
from node.errors import ConfigError

CLUSTER_FIELD: Final = "bondstone-cluster"
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
T = TypeVar("T")


class Pause(Struct, frozen=True, gc=False):
    """Wait this many seconds."""

    seconds: float


class SendRequest(Struct, frozen=True, gc=False):
    """SendRequest a request, and give up on its answer at ``end_at`` (of the client's clock)."""

    method: str
    base: str
    path: str
    headers: dict[str, str]
    content: bytes | None
    end_at: float

    @property
    def url(self) -> str:
        return self.base + self.path


class Answered(Struct, frozen=True, gc=False):
    """A node answered. ``cluster``: the field of the answer that names its cluster, or None."""

    status: int
    cluster: str | None
    content: bytes


class NoAnswer(Struct, frozen=True, gc=False):
    """There is no answer. Unless ``sent`` is False, the node may have received the request."""

    error: Exception
    sent: bool


Step = Pause | SendRequest
Reply = Answered | NoAnswer | None
Call = Generator[Step, Reply, T]


class Exchange:
    """What the calls of one client share.

    Attributes:
        cluster: the cluster that must answer, ``ID/GENERATION``; None: the first that answers.

    Args:
        urls: of the nodes, checked; at least one. The node that answered last comes first.
        headers: of every request.
        deadline_s: of one call with all its repetitions.
        repeat_s: for how long a write that may have happened is sent again.
        clock: monotonic seconds that go on while the machine sleeps.
    """

    def __init__(
        self,
        urls: list[str],
        *,
        headers: dict[str, str],
        deadline_s: float,
        repeat_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.urls = urls
        self.cluster: str | None = None
        self._headers = headers
        self._deadline_s = deadline_s
        self._repeat_s = repeat_s
        self._clock = clock
        self._doubtful: OrderedDict[str, float] = OrderedDict()

    def turn(self) -> None:
        """Ask the next node first: the first one could not tell."""
        self.urls.append(self.urls.pop(0))

    def call(
        self,
        method: str,
        path: str,
        answer_type: type[T],
        *,
        body: dict[str, Any] | None = None,
        key: str | None = None,
    ) -> Call[T]:
        """SendRequest until a node gives a final answer.

        Every request here may safely be sent twice: it is a read, or a write with its key.
        """
        headers = dict(self._headers)
        if key is not None:
            headers["idempotency-key"] = key
        content = None if body is None else msgspec.json.encode(body)
        if content is not None:
            headers["content-type"] = "application/json"
        attempts = _Attempts(key, None if key is None else self._doubtful.get(key))
        try:
            answer = yield from self._answer(method, path, headers, content, attempts)
            return decode_answer(answer, answer_type)
        finally:
            self._remember(attempts)

    def _answer(
        self, method: str, path: str, headers: dict[str, str], content: bytes | None, attempts: "_Attempts"
    ) -> Call[bytes]:
        """Return the body of a success."""
        give_up = self._clock() + self._deadline_s
        for number, (base, pause_s) in enumerate(self._order()):
            at = self._clock() + pause_s
            if (number and at >= give_up) or attempts.too_old(at - self._repeat_s):
                break
            if pause_s:
                yield Pause(pause_s)
            attempts.begin(at)
            left_s = give_up - at
            if number + 1 < len(self.urls):
                left_s *= _SHARE_OF_FIRST  # leaves time for the other nodes if the first does not answer
            named = {} if self.cluster is None else {CLUSTER_FIELD: self.cluster}
            reply = yield SendRequest(method, base, path, headers | named, content, at + left_s)
            match reply:
                case NoAnswer(error, sent):
                    attempts.failed(error, sent=sent)
                case Answered(status, cluster, answer):
                    executed = method != "GET" and status < httpx.codes.BAD_REQUEST
                    self._require_cluster(cluster, executed=executed)
                    if 200 <= status < 300:
                        self._prefer(base)
                        if status == httpx.codes.ALREADY_REPORTED:
                            raise AlreadyExecutedError(decode_answer(answer, schemas.AlreadyExecuted))
                        return answer
                    attempts.refused(status, answer)
                case None:
                    raise AssertionError("a request was sent, and nothing became of it")
        raise attempts.error()

    def _remember(self, attempts: "_Attempts") -> None:
        """Keep the time of the first copy: a later call may use the key, whose TTL began with that copy."""
        if attempts.key is not None and attempts.doubtful_since is not None:
            self._doubtful[attempts.key] = attempts.doubtful_since
            if len(self._doubtful) > _DOUBTFUL_KEYS_MAX:
                self._doubtful.popitem(last=False)

    def _order(self) -> Iterator[tuple[str, float]]:
        """Yield the nodes to try, without end, and how long to wait before each: 0 within a round."""
        yield from ((url, 0.0) for url in list(self.urls))
        round_number = 0
        while True:
            pause_s = _BACK_OFF_S[min(round_number, len(_BACK_OFF_S) - 1)]
            for url in list(self.urls):
                yield url, pause_s
                pause_s = 0.0
            round_number += 1

    def _prefer(self, url: str) -> None:
        if self.urls[0] != url:
            self.urls.remove(url)
            self.urls.insert(0, url)

    def _require_cluster(self, answered: str | None, *, executed: bool) -> None:
        """Pin the first cluster that answers, and refuse every other.

        Raises:
            ClusterChangedError: another cluster answered, or a success names none.
        """
        if self.cluster is None:
            if answered is not None:
                self.cluster = cluster_text(answered)
        elif answered is None:
            if executed:
                raise ClusterChangedError(known=self.cluster, answered=None, executed=True)
        elif answered != self.cluster:
            raise ClusterChangedError(known=self.cluster, answered=answered[:80], executed=executed)


def cluster_text(text: str) -> str:
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
        if isinstance(self._last_error, NodeRefusedError):
            return self._last_error
        return UnreachableError(f"no node answered: {self._last()}")

    def _last(self) -> str:
        if self._last_problem is not None:
            return self._last_problem.detail
        return str(self._last_error or "too long ago to send it again; check its effect")
