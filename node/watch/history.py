"""What a hub needs of the store that it watches. ``node.machines.kv`` has this form from version 3 on."""

from collections.abc import Iterator, Sequence
from typing import Protocol


class WatchedVersion(Protocol):
    """What a key holds."""

    @property
    def value(self) -> bytes: ...
    @property
    def create_revision(self) -> int: ...
    @property
    def mod_revision(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def lease(self) -> int: ...


class WatchedChange(Protocol):
    """One key, changed at one revision."""

    @property
    def key(self) -> bytes: ...
    @property
    def revision(self) -> int: ...
    @property
    def version(self) -> WatchedVersion | None:
        """What the key holds from then on; None: it was deleted."""
        ...

    @property
    def before(self) -> WatchedVersion | None:
        """What it held until then; None: nothing, or it was compacted."""
        ...


class History(Protocol):
    """Every change since the last compaction. It only grows, except at its old end."""

    @property
    def revision(self) -> int:
        """The head."""
        ...

    @property
    def compact_revision(self) -> int:
        """The floor: the oldest revision that can be read and watched."""
        ...

    def events(
        self, first: int, last: int, start: bytes, end: bytes | None
    ) -> Iterator[tuple[int, Sequence[WatchedChange]]]:
        """Yield each revision in ``first..last`` that changed keys of a range, its changes in their order."""
        ...
