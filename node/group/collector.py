"""The interpreter's garbage collector and a large state: no full collection walks over a state of millions.

A full collection visits every tracked object, and all that containers among them refer to: for a million keys
that takes a tenth of a second, in one go. A state has no cycles of its own. So what is there when a node has
started, and what a member has loaded from a snapshot, is put out of the collector's sight, and no collection
happens while a member loads.
"""

import gc

from node.raft.member import Member


def begin() -> None:
    """Collect once, and keep the collector away from all that is left: the code, and an empty state."""
    gc.collect()
    gc.freeze()


def is_loading(member: Member) -> bool:
    """Return whether ``member`` makes the objects of a state that it has fetched."""
    installing = member.tenure.installing
    return installing is not None and installing.loading is not None and not installing.is_loaded


class LoadingPause:
    """Holds collections up while a member loads a state, and hides that state from those that follow."""

    def __init__(self) -> None:
        self._is_loading = False
        self._was_enabled = False

    def note(self, *, is_loading: bool) -> None:
        """Take what the member does now; called after each of its steps."""
        if is_loading == self._is_loading:
            return
        self._is_loading = is_loading
        if is_loading:
            self._was_enabled = gc.isenabled()
            gc.disable()
            return
        gc.freeze()
        if self._was_enabled:
            gc.enable()
