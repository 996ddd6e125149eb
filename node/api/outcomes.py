"""The answers to a caller whose command or query did not end in a result."""

from typing import Final

from node.api.problems import ProblemError
from node.raft.types import BATCH_ABORTED, Cursor, Failed, NotExecuted, Result, Unknown
from node.system.grants import NOT_PERMITTED

# Reasons that are final: the request was not executed, and repeating it cannot change that.
_FINAL: Final = {
    "idempotency-key-reused": "idempotency-key-reused",
    "command-too-large": "body-too-large",
    "superseded": "superseded",
}
# The code of the other commands of a refused atomic batch: they are not the cause.


def not_executed(outcome: NotExecuted) -> ProblemError:
    """Return the refusal that is safe to repeat, here or at another node (but see ``_FINAL``)."""
    if outcome.reason in _FINAL:
        return ProblemError(_FINAL[outcome.reason], "it was not executed, and repeating it does not help")
    leader = outcome.leader
    return ProblemError(
        "not-executed",
        f"it did not happen and never will ({outcome.reason}); the same request can be sent again"
        + (f": {outcome.detail}" if outcome.detail else ""),
        extensions={
            "reason": outcome.reason,
            "leader": None if leader is None else {"name": leader.name, "peer_id": leader.id.hex()},
        },
    )


def outcome_unknown(outcome: Unknown) -> ProblemError:
    """Return the answer for an unknown outcome: only a repetition with the same Idempotency-Key is safe."""
    return ProblemError(
        "outcome-unknown",
        f"it may or may not have happened ({outcome.reason}); "
        "check the state, or repeat it with its Idempotency-Key",
        extensions={"reason": outcome.reason},
    )


def state_machine_refused(code: str, results: tuple[Result, ...], at: Cursor) -> ProblemError:
    """Return the refusal of a command or its caller. It is equal on every node, and nothing changed."""
    failures = [
        {"position": position, "code": result.code, "message": result.message}
        for position, result in enumerate(results)
        if isinstance(result, Failed)
    ]
    cause = next((one for one in failures if one["code"] != BATCH_ABORTED), failures[0])
    return ProblemError(
        NOT_PERMITTED if cause["code"] == NOT_PERMITTED else code,
        str(cause["message"]),
        extensions={"reason": cause["code"], "failures": failures, "term": at.term, "index": at.index},
    )
