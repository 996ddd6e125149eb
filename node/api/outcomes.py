"""What is told to a caller whose command or query did not end in a result."""

from node.api.problems import ProblemError
from node.raft.types import Failed, NotExecuted, Ok, Unknown


def not_executed(outcome: NotExecuted) -> ProblemError:
    """Return the refusal that is safe to repeat, here or at another node."""
    leader = outcome.leader
    return ProblemError(
        "not-executed",
        f"it did not happen and never will ({outcome.reason}); the same request can be sent again",
        extensions={
            "reason": outcome.reason,
            "leader": None if leader is None else {"name": leader.name, "peer_id": leader.id.hex()},
        },
    )


def outcome_unknown(outcome: Unknown) -> ProblemError:
    """Return the answer after which only a repetition with the same Idempotency-Key is safe."""
    return ProblemError(
        "outcome-unknown",
        f"it may or may not have happened ({outcome.reason}); look, or repeat it with its Idempotency-Key",
        extensions={"reason": outcome.reason},
    )


def state_machine_refused(code: str, outcome: Ok) -> ProblemError:
    """Return the refusal by the state machine: the same on every node, and nothing has changed."""
    failures = [
        {"position": position, "code": result.code, "message": result.message}
        for position, result in enumerate(outcome.results)
        if isinstance(result, Failed)
    ]
    return ProblemError(
        code,
        str(failures[0]["message"]),
        extensions={
            "reason": failures[0]["code"],
            "failures": failures,
            "term": outcome.at.term,
            "index": outcome.at.index,
        },
    )
