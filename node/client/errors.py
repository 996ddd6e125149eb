"""How a call can end other than well.

ClientError
├─ UnreachableError      no node could be reached, or none answered
├─ NotExecutedError      it did not happen and never will
├─ OutcomeUnknownError   it may or may not have happened
├─ AlreadyExecutedError  it was executed once, and what it returned is not kept any more
├─ ClusterChangedError   the answer is another cluster's: what was written before is not in it
├─ ClusterNotConfirmedError  the group's authority has not signed that this cluster is the group
├─ RefusedError          a node refused it (problem document): trying again does not help
└─ AnswerInvalidError    what came back is not what this API answers
"""

import msgspec

from node.api import schemas
from node.errors import NodeError


class ClientError(NodeError):
    """The base."""


class UnreachableError(ClientError):
    """No node could be reached in time, or none answered."""


class NotExecutedError(ClientError):
    """No node executed it, in all the time there was. ``problem`` is the last answer."""

    def __init__(self, problem: schemas.Problem) -> None:
        super().__init__(f"{problem.title}: {problem.detail} [{problem.code}]")
        self.problem = problem


class OutcomeUnknownError(ClientError):
    """The write may or may not have happened. Ask for the state, or repeat it with ``idempotency_key``.

    Repeating ends half a ``session_ttl_ms`` after the first try: later the group may not know the key.
    """

    def __init__(self, message: str, idempotency_key: str) -> None:
        super().__init__(message)
        self.idempotency_key = idempotency_key


class AlreadyExecutedError(ClientError):
    """An earlier copy of the write was executed, and its answer was lost. ``answer`` says where it is.

    Its results were large: the group keeps their digest and size. Ask for the state.
    """

    def __init__(self, answer: schemas.AlreadyExecuted) -> None:
        super().__init__(f"executed at {answer.term}:{answer.index}; what it returned is not kept any more")
        self.answer = answer


class ClusterChangedError(ClientError):
    """A node of another cluster of the group answered than the one that this client knows.

    The group was founded anew (all that was written before is gone), or somebody leads this client to a
    second group of the same making. Nothing of the request was executed if ``executed`` is False. To go on
    with the new cluster is the caller's decision: make a client with ``cluster=`` the new one.
    """

    def __init__(self, *, known: str, answered: str | None, executed: bool) -> None:
        what = "names no cluster" if answered is None else f"is from cluster {answered}"
        done = "it may have been executed there" if executed else "nothing was executed"
        super().__init__(f"the answer {what}, and this client knows cluster {known}; {done}")
        self.known = known
        self.answered = answered
        self.executed = executed


class ClusterNotConfirmedError(ClientError):
    """The client requires the authority's word for the cluster, and there is none that counts.

    Nothing was asked of the group. ``reason`` is a stable kebab-case code.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{message} [{reason}]")
        self.reason = reason


class RefusedError(ClientError):
    """A node refused the request; ``problem`` says why."""

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
    """The answer is not what this API answers: another server, or another version."""
