"""The key-value machine's JSON, for the client."""

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from node.client.errors import AnswerInvalidError


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What a key holds (see ``node.machines.kv``)."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int


def field_of(name: str, value: str | bytes | None) -> dict[str, Any]:
    """Return the member for a key or value: text as it is, bytes as base64, None as null."""
    if isinstance(value, bytes):
        return {f"{name}_b64": base64.b64encode(value).decode("ascii")}
    return {name: value}


def member_of(answer: Any, name: str) -> Any:
    """Return a member of an answer. Raises AnswerInvalidError if no member has that name."""
    if not isinstance(answer, dict) or name not in answer:
        raise AnswerInvalidError(
            f"the answer has no `{name}`: is the group's state machine the key-value one?"
        )
    return answer[name]


def item_of(item: Any) -> Item:
    """Return an item. Raises AnswerInvalidError."""
    try:
        return Item(
            key=_bytes_of(item, "key"),
            value=_bytes_of(item, "value"),
            create_revision=int(item["create_revision"]),
            mod_revision=int(item["mod_revision"]),
            version=int(item["version"]),
        )
    except (KeyError, TypeError, ValueError, binascii.Error) as exc:
        raise AnswerInvalidError("this is not an item of the key-value machine") from exc


def _bytes_of(item: dict[str, Any], name: str) -> bytes:
    b64 = item.get(f"{name}_b64")
    if b64 is not None:
        return base64.b64decode(b64, validate=True)
    text = item[name]
    if not isinstance(text, str):
        raise TypeError(f"{name} is not text")
    return text.encode()
