"""The errors of a call on a group.

GroupError
├─ NotExecutedError    it did not happen and never will: safe to try again
├─ OutcomeUnknownError it may or may not have happened: ask, or retry with the same idempotency key
├─ AlreadyExecutedError  an earlier call with this key executed it; its results are no longer kept
├─ CommandFailedError  it was committed, and the state machine refused it, equally on every node
├─ SupersededError     another term's entry was committed at that index
└─ GroupClosedError    this handle's group has ended
"""

from node.errors import NodeError
from node.peers import Incarnation
from node.raft.types import Cursor


class GroupError(NodeError):
    """The base."""


class NotExecutedError(GroupError):
    """The command or query was not executed. ``reason`` is a stable kebab-case code."""

    def __init__(self, reason: str, leader: Incarnation | None, detail: str = "") -> None:
        super().__init__(f"not executed: {reason}" + (f": {detail}" if detail else ""))
        self.reason = reason
        self.leader = leader


class OutcomeUnknownError(GroupError):
    """The command may or may not have been executed."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"outcome unknown: {reason}")
        self.reason = reason


class AlreadyExecutedError(GroupError):
    """The command was executed exactly once, by an earlier call with the same key.

    Attributes:
        at: its position in the log.
        digest: SHA-256 of the deterministic CBOR of the list of its results, which are no longer kept.
        size: bytes of that list.
    """

    def __init__(self, at: Cursor, digest: bytes, size: int) -> None:
        super().__init__(f"executed at {tuple(at)}, and its {size} bytes of results are not kept any more")
        self.at = at
        self.digest = digest
        self.size = size


class CommandFailedError(GroupError):
    """The state machine refused the command, deterministically; nothing changed."""

    def __init__(self, code: str, message: str, at: Cursor) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.at = at


class SupersededError(GroupError):
    """The entry that this cursor named was replaced before it was committed."""

    def __init__(self, cursor: Cursor, committed: Cursor) -> None:
        super().__init__(f"{tuple(cursor)} was superseded by {tuple(committed)}")
        self.cursor = cursor
        self.committed = committed


class GroupClosedError(GroupError):
    """The group ended before it could answer this call."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the group has ended: {reason}")
        self.reason = reason
