"""When a group's leader compacts its store, as ``store.compaction`` in the group document has it. Sans-IO."""

from collections import deque
from typing import Final

from node.group_document.tables import Compaction, PeriodicCompaction, RevisionCompaction

_PARTS: Final = 10  # of what is kept: it may be exceeded by one part before the store is compacted again


class Compactor:
    """``due`` is asked again and again. Who begins to lead measures time anew, and so keeps more."""

    def __init__(self, policy: Compaction) -> None:
        self._policy = policy
        self._seen: deque[tuple[int, int]] = deque()  # when the store was at which revision

    def due(self, now_ms: int, *, leads: bool, revision: int, floor: int) -> int | None:
        """Return up to which revision the store is to be compacted now; None: it is not."""
        policy = self._policy
        if not leads:
            self._seen.clear()
            return None
        match policy:
            case RevisionCompaction(keep_revisions=keep):
                target = revision - keep
                return target if target - floor > keep // _PARTS else None
            case PeriodicCompaction(keep_s=keep_s):
                return self._older_than(now_ms, keep_s * 1000, revision, floor)
            case _:
                return None

    def _older_than(self, now_ms: int, keep_ms: int, revision: int, floor: int) -> int | None:
        seen = self._seen
        if not seen or now_ms - seen[-1][0] >= keep_ms // _PARTS:
            seen.append((now_ms, revision))
        target = None
        while seen and now_ms - seen[0][0] >= keep_ms:
            target = seen.popleft()[1]
        return target if target is not None and target > floor else None
