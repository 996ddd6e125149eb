"""What both stores hold, and the limits that they share. Part of the signature: equal on every node."""

from typing import Final

from msgspec import Struct

# Only the command limits keys and values: its size is a setting of the group, at most this.
KEY_BYTES_MAX: Final = 2 * 1024 * 1024
VALUE_BYTES_MAX: Final = 2 * 1024 * 1024
# What a key that exists takes in memory beside the bytes of key and value. It counts towards the group's
# quota: otherwise keys of a few bytes would take fifty times what they count.
KEY_COST: Final = 256
REVISION_START: Final = 1  # as in etcd: an empty store is at revision 1, the first change makes 2
REVISION_MAX: Final = 2**63 - 1


# Every change makes one of these, and a node that catches up makes tens of thousands of changes a second.
class Version(Struct, frozen=True, gc=False):
    """What a key holds from ``mod_revision`` on. ``lease`` is 0 without one, and before version 3."""

    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


class KeyEvent(Struct, frozen=True, gc=False):
    """One key, changed at ``revision``: it then holds ``version`` (None: it was deleted).

    ``before`` is what it held until then: None if it held nothing, or if that can no longer be read.
    """

    key: bytes
    revision: int
    version: Version | None
    before: Version | None


def row_of(key: bytes, held: Version) -> list[object]:
    """Return the row of version 3 in results and snapshots."""
    return [key, held.value, held.create_revision, held.mod_revision, held.version, held.lease]
