"""Strict reading of the members of commands and queries of the collections, within limits."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final

from node.machines.base import CommandError
from node.machines.fields import Fields

NAME_BYTES_MAX: Final = 128
KEY_BYTES_MAX: Final = 64 * 1024
VALUE_BYTES_MAX: Final = 2 * 1024 * 1024
# A command with this many items takes a tenth of a second or two if the collection is large, and a member
# does nothing else meanwhile.
ITEMS_MAX: Final = 10_000
INDEX_MAX: Final = 2**53 - 1  # what every JSON reader takes for a whole number
PRIORITY_MIN: Final = -(2**53) + 1
PRIORITY_MAX: Final = 2**53 - 1


class CollectionFields(Fields):
    """``Fields`` with the members of the collections' commands and queries."""

    __slots__ = ()

    def name(self) -> bytes:
        """Take ``name``, the name of a collection."""
        value = self._left.pop("name", None)
        if not isinstance(value, str):
            raise CommandError("member-type", "`name` is the name of a collection, as text")
        name = _encoded("name", value)
        if not 1 <= len(name) <= NAME_BYTES_MAX:
            raise CommandError("name-length", f"a name has 1 to {NAME_BYTES_MAX} bytes of UTF-8")
        return name

    def kind(self, kinds: Sequence[str]) -> str:
        """Take ``kind``, one of ``kinds``."""
        value = self._left.pop("kind", None)
        if not isinstance(value, str) or value not in kinds:
            raise CommandError("kind-unknown", f"`kind` is one of {', '.join(kinds)}")
        return value

    def capacity(self, *, high: int) -> int:
        """Take ``capacity``, at least 1; 0 if it is absent."""
        return self._required("capacity", low=1, high=high) if "capacity" in self._left else 0

    def key(self) -> bytes:
        return self.bytes_of("key", bytes_max=KEY_BYTES_MAX)

    def value(self) -> bytes:
        return self.bytes_of("value", bytes_max=VALUE_BYTES_MAX)

    def keys(self, name: str = "keys") -> tuple[bytes, ...]:
        return self._several(name, KEY_BYTES_MAX)

    def values(self) -> tuple[bytes, ...]:
        return self._several("values", VALUE_BYTES_MAX)

    def index(self, name: str = "index") -> int:
        """Take a position or a length, which must be there."""
        return self._required(name, low=0, high=INDEX_MAX)

    def priority(self, name: str) -> int:
        return self._required(name, low=PRIORITY_MIN, high=PRIORITY_MAX)

    def priorities(self) -> tuple[int, ...]:
        """Take a list of priorities under ``priorities``."""
        value = self._left.pop("priorities", None)
        if not isinstance(value, list | tuple) or len(value) > ITEMS_MAX:
            raise CommandError("member-type", f"`priorities` is a list of at most {ITEMS_MAX}")
        for item in value:
            if type(item) is not int or not PRIORITY_MIN <= item <= PRIORITY_MAX:
                raise CommandError(
                    "member-range", f"a priority is a whole number from {PRIORITY_MIN} to {PRIORITY_MAX}"
                )
        return tuple(value)

    def _required(self, name: str, *, low: int, high: int) -> int:
        if name not in self._left:
            raise CommandError("member-missing", f"the member `{name}` is missing")
        return self.integer(name, default=low, low=low, high=high)

    def _several(self, name: str, bytes_max: int) -> tuple[bytes, ...]:
        """Take a list of texts under ``name`` (as UTF-8), or of base64 under ``name_b64``; exactly one."""
        b64_name = f"{name}_b64"
        if (name in self._left) == (b64_name in self._left):
            raise CommandError("member-twice", f"give exactly one of `{name}` and `{b64_name}`")
        given = name if name in self._left else b64_name
        values = self._left.pop(given)
        if not isinstance(values, list | tuple):
            raise CommandError("member-type", f"`{given}` is a list of texts")
        if len(values) > ITEMS_MAX:
            raise CommandError("too-many-items", f"`{given}` has {len(values)} items, at most {ITEMS_MAX}")
        read = _encoded if given == name else _decoded
        items = tuple(read(given, value) for value in values)
        if any(len(item) > bytes_max for item in items):
            raise CommandError("item-too-large", f"an item of `{given}` has more than {bytes_max} bytes")
        return items


def _encoded(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise CommandError("member-type", f"`{name}` holds text only")
    try:
        return value.encode()
    except UnicodeEncodeError as exc:
        raise CommandError("member-type", f"`{name}` holds a lone surrogate") from exc


def _decoded(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise CommandError("member-type", f"`{name}` holds base64 text only")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise CommandError("base64-invalid", f"`{name}` is not base64 (RFC 4648 section 4)") from exc
