"""A store with a history, small enough to be seen to be right."""

from collections.abc import Iterator, Sequence

from msgspec import Struct


class Held(Struct, frozen=True):
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


class Change(Struct, frozen=True):
    key: bytes
    revision: int
    version: Held | None
    before: Held | None


class SmallStore:
    """``write`` is one revision, whatever it touches. A value of None deletes."""

    def __init__(self) -> None:
        self.revision = 1
        self.compact_revision = 0
        self.live: dict[bytes, Held] = {}
        self.changes: dict[int, list[Change]] = {}
        self.reads = 0  # revisions that were looked at

    def write(self, *pairs: tuple[bytes, bytes | None]) -> int:
        self.revision += 1
        made = self.changes[self.revision] = []
        for key, value in pairs:
            before = self.live.pop(key, None)
            after = None
            if value is not None:
                created = self.revision if before is None else before.create_revision
                after = Held(value, created, self.revision, 1 if before is None else before.version + 1)
                self.live[key] = after
            elif before is None:
                continue
            made.append(Change(key, self.revision, after, before))
        return self.revision

    def compact(self, floor: int) -> None:
        self.compact_revision = floor

    def events(
        self, first: int, last: int, start: bytes, end: bytes | None
    ) -> Iterator[tuple[int, Sequence[Change]]]:
        for revision in range(max(first, 2), last + 1):
            assert revision >= self.compact_revision, "a compacted revision was asked for"
            self.reads += 1
            found = [
                one for one in self.changes[revision] if start <= one.key and (end is None or one.key < end)
            ]
            if found:
                yield revision, found
