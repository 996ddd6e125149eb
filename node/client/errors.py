"""How a call can fail.

ClientError
├─ UnreachableError      no node could be reached, or none answered
├─ NotExecutedError      the request was not executed and never will be
├─ OutcomeUnknownError   the request may or may not have been executed
├─ AlreadyExecutedError  the write was executed once, and its results are not kept any more
├─ ClusterChangedError   another cluster answered: it does not hold what was written before
├─ NodeRefusedError      the evidence of no node that answered is what this client requires
├─ ClusterNotConfirmedError  the group's authority has not signed that this cluster is the group
├─ RefusedError          a node refused the request (problem document): repeating it does not help
└─ AnswerInvalidError    the answer does not have the form of this API's answers
"""

import msgspec

from node.api import schemas
from node.errors import NodeError


class ClientError(NodeError):
    """The base."""


class UnreachableError(ClientError):
    """No node could be reached in time, or none answered."""


class NotExecutedError(ClientError):
    """No node executed the request before the deadline. ``problem`` is the last answer."""

    def __init__(self, problem: schemas.Problem) -> None:
        super().__init__(f"{problem.title}: {problem.detail} [{problem.code}]")
        self.problem = problem


class OutcomeUnknownError(ClientError):
    """The write may or may not have happened. Query the state, or repeat the write with ``idempotency_key``.

    Do so within half a ``session_ttl_ms`` of the first try: later the group may not know the key.
    """

    def __init__(self, message: str, idempotency_key: str) -> None:
        super().__init__(message)
        self.idempotency_key = idempotency_key


class AlreadyExecutedError(ClientError):
    """An earlier copy of the write was executed, and its answer was lost. ``answer`` has its place.

    Its results were large: the group keeps their digest and size only. Query the state instead.
    """

    def __init__(self, answer: schemas.AlreadyExecuted) -> None:
        super().__init__(f"executed at {answer.term}:{answer.index}; its results are no longer kept")
        self.answer = answer


class ClusterChangedError(ClientError):
    """The answer came from another cluster of the group than the one that this client knows.

    The group was founded anew (all that was written before is gone), or an attacker leads this client to a
    second group with the same document and code. If ``executed`` is False, no part of the request was
    executed. The caller decides whether to use the new cluster: make a client with ``cluster=`` the new one.
    """

    def __init__(self, *, known: str, answered: str | None, executed: bool) -> None:
        what = "names no cluster" if answered is None else f"is from cluster {answered}"
        done = "it may have been executed there" if executed else "nothing was executed"
        super().__init__(f"the answer {what}, and this client knows cluster {known}; {done}")
        self.known = known
        self.answered = answered
        self.executed = executed


class ClusterNotConfirmedError(ClientError):
    """The client requires a birth certificate of the cluster, and there is no valid one.

    The client sent no request to the group. ``reason`` is a stable kebab-case code.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{message} [{reason}]")
        self.reason = reason


class NodeRefusedError(ClientError):
    """A node's evidence is not what this client requires. The client sent the node no request.

    ``reason`` is the verifier's stable kebab-case code.
    """

    def __init__(self, url: str, reason: str, message: str) -> None:
        super().__init__(f"{url}: {message} [{reason}]")
        self.url = url
        self.reason = reason


class RefusedError(ClientError):
    """A node refused the request; ``problem`` has the reason."""

    def __init__(self, problem: schemas.Problem) -> None:
        super().__init__(f"{problem.detail} [{problem.code}]")
        self.problem = problem

    @property
    def code(self) -> str:
        return self.problem.code

    @property
    def reason(self) -> str | None:
        """The finer code, such as the state machine's own."""
        return None if isinstance(self.problem.reason, msgspec.UnsetType) else self.problem.reason


class AnswerInvalidError(ClientError):
    """The answer does not have the form of this API's: it is another server, or another version."""
