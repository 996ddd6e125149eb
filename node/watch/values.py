"""What goes into a stream of watches, and what comes out of it."""

from collections.abc import Callable, Sequence

from msgspec import Struct

from node.watch.history import WatchedChange

NO_WATCH = -1  # the id in answers that concern no watch, or one that was refused

# Whether a client may read every key of ``start <= key < end`` now.
Permits = Callable[[bytes, bytes | None], bool]


class WatchOrder(Struct, frozen=True, kw_only=True):
    """A watch that a client asks for.

    Attributes:
        start, end: the keys ``start <= key < end``; ``end`` None: without an end.
        first: the first revision wanted; 0: the next one.
        watch_id: the client's own; 0: the stream chooses.
        puts, deletes: which changes are wanted.
        before: whether each change shows what the key held until then.
        notify: whether the client wants to know how far an idle watch has come.
        fragment: whether what one revision did may be split into several answers.
    """

    start: bytes
    end: bytes | None
    first: int = 0
    watch_id: int = 0
    puts: bool = True
    deletes: bool = True
    before: bool = False
    notify: bool = False
    fragment: bool = False


class WatchAnswer(Struct, frozen=True, kw_only=True):
    """What a stream sends to its client.

    Without changes, and neither ``created`` nor ``canceled``, it reports progress: every change up to
    ``revision``, of the watch or (``NO_WATCH``) of all watches of the stream, was sent before.

    Attributes:
        revision: the head; 0 in the answer to a watch that a compaction has overtaken.
        before: whether the client wants what each key held before its change.
        compact_revision: the floor that overtook the watch; 0 otherwise.
        more: whether the next answer goes on with the same changes.
    """

    watch_id: int
    revision: int
    changes: Sequence[WatchedChange] = ()
    before: bool = False
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    reason: str = ""
    more: bool = False
