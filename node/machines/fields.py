"""Strict reading of commands and queries: every member by name, every refusal with a stable code."""

import base64
import binascii
from typing import Any

from node.machines.base import CommandError


class Fields:
    """The members of one command, each taken once; ``done`` refuses members that were not taken.

    Raises:
        CommandError: from every method, when the command is malformed.
    """

    __slots__ = ("_left",)

    def __init__(self, value: Any) -> None:
        if not isinstance(value, dict):
            raise CommandError("not-an-object", "a command or query is an object with a member `op`")
        self._left: dict[Any, Any] = dict(value)

    def op(self) -> str:
        """Take ``op``."""
        op = self._left.pop("op", None)
        if not isinstance(op, str):
            raise CommandError("op-missing", "the member `op` names what to do, as text")
        return op

    def done(self) -> None:
        """Refuse any member that is left."""
        for name in self._left:
            shown = name[:64] if isinstance(name, str) else type(name).__name__
            raise CommandError("unknown-member", f"unknown member `{shown}`")

    def bytes_of(self, name: str, *, bytes_max: int) -> bytes:
        """Take text under ``name`` (as UTF-8), or base64 under ``name_b64``; exactly one of them."""
        value = self.optional_bytes_of(name, bytes_max=bytes_max)
        if value is None:
            raise CommandError("member-missing", f"the member `{name}` (or `{name}_b64`) is missing")
        return value

    def optional_bytes_of(self, name: str, *, bytes_max: int) -> bytes | None:
        """Like ``bytes_of``; None if neither member is there."""
        b64_name = f"{name}_b64"
        if name in self._left and b64_name in self._left:
            raise CommandError("member-twice", f"give `{name}` or `{b64_name}`, not both")
        if b64_name in self._left:
            value = _of_base64(b64_name, self._left.pop(b64_name))
        elif name in self._left:
            value = _of_text(name, self._left.pop(name))
        else:
            return None
        if len(value) > bytes_max:
            raise CommandError(f"{name}-too-large", f"`{name}` has {len(value)} bytes, at most {bytes_max}")
        return value

    def nullable_bytes_of(self, name: str, *, bytes_max: int) -> bytes | None:
        """Like ``bytes_of``, but null is allowed and gives None. The member must be there."""
        if f"{name}_b64" not in self._left and name in self._left and self._left[name] is None:
            del self._left[name]
            return None
        return self.bytes_of(name, bytes_max=bytes_max)

    def integer(self, name: str, *, default: int, low: int, high: int) -> int:
        """Take a whole number in ``low..high``."""
        value = self._left.pop(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise CommandError("member-type", f"`{name}` is a whole number")
        if not low <= value <= high:
            raise CommandError("member-range", f"`{name}` is from {low} to {high}")
        return value

    def boolean(self, name: str) -> bool:
        """Take true or false; false if absent."""
        value = self._left.pop(name, False)
        if not isinstance(value, bool):
            raise CommandError("member-type", f"`{name}` is true or false")
        return value


def _of_text(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise CommandError("member-type", f"`{name}` is text (or base64 under `{name}_b64`)")
    try:
        return value.encode()
    except UnicodeEncodeError as exc:
        raise CommandError("member-type", f"`{name}` holds a lone surrogate") from exc


def _of_base64(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise CommandError("member-type", f"`{name}` is base64 text")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise CommandError("base64-invalid", f"`{name}` is not base64 (RFC 4648 section 4)") from exc


def plain_put(command: Any, *, key_bytes_max: int, value_bytes_max: int) -> tuple[bytes, bytes] | None:
    """Return key and value of a put of text by a short way, because nearly all commands are such puts.

    None: it is another command, too large or malformed; the caller lets ``Fields`` find out.
    """
    if type(command) is not dict or len(command) != 3 or command.get("op") != "put":
        return None
    key, value = command.get("key"), command.get("value")
    if type(key) is not str or type(value) is not str:
        return None
    try:
        raw_key, raw_value = key.encode(), value.encode()
    except UnicodeEncodeError:
        return None
    if not 1 <= len(raw_key) <= key_bytes_max or len(raw_value) > value_bytes_max:
        return None
    return raw_key, raw_value


def put_bytes(target: dict[str, Any], name: str, value: bytes) -> None:
    """Write ``value`` under ``name`` if it is UTF-8 text, otherwise as base64 under ``name_b64``."""
    try:
        target[name] = value.decode()
    except UnicodeDecodeError:
        target[f"{name}_b64"] = base64.b64encode(value).decode("ascii")
