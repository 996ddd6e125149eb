"""What ``bondstone kv`` prints of keys and values: lines in which every byte is visible, or JSON."""

import base64
from collections.abc import Iterable
from typing import Any

from node.cli import kv_forms as forms
from node.cli.kv_forms import Found, Row
from node.cli.output import say, visible_bytes


def say_rows(rows: Iterable[Row], *, keys_only: bool = False) -> None:
    """Print each key in a line, and its value in the next one, as etcdctl does."""
    for row in rows:
        say(visible_bytes(row.key))
        if not keys_only:
            say(visible_bytes(row.value))


def say_response(response: Any) -> None:
    """Print what one operation of a transaction did. Raises AnswerInvalidError."""
    match response:
        case ["put", before]:
            say("OK")
            say_rows([] if before is None else [forms.row(before)])
        case ["delete", int(deleted), [*rows]]:
            say(str(deleted))
            say_rows(map(forms.row, rows))
        case ["range", *_]:
            found = _found(response)
            # Without a row, a range that was only counted looks as an empty one does.
            say_rows(found.rows) if found.rows else say(str(found.count))
        case _:
            raise forms.invalid()


def json_of_response(response: Any) -> dict[str, Any]:
    """Return it for JSON. Raises AnswerInvalidError."""
    match response:
        case ["put", before]:
            return {"put": {"prev_kv": None if before is None else json_of_row(forms.row(before))}}
        case ["delete", int(deleted), [*rows]]:
            prev_kvs = [json_of_row(forms.row(each)) for each in rows]
            return {"delete": {"deleted": deleted, "prev_kvs": prev_kvs}}
        case ["range", *_]:
            return {"range": json_of_found(_found(response))}
        case _:
            raise forms.invalid()


def _found(response: list[Any]) -> Found:
    """Return a range within a transaction, whose answer has no revision of its own."""
    return forms.found([0, *response[1:]])


def json_of_found(found: Found, *, keys_only: bool = False) -> dict[str, Any]:
    shown = {"revision": found.revision} if found.revision else {}
    items = [json_of_row(row, keys_only=keys_only) for row in found.rows]
    return shown | {"count": found.count, "more": found.more, "items": items}


def json_of_row(row: Row, *, keys_only: bool = False) -> dict[str, Any]:
    data = [("key", row.key)] if keys_only else [("key", row.key), ("value", row.value)]
    return json_of(*data) | {
        "create_revision": row.create_revision,
        "mod_revision": row.mod_revision,
        "version": row.version,
        "lease": row.lease,
    }


def json_of(*fields: tuple[str, bytes]) -> dict[str, Any]:
    """Return bytes as text where they are UTF-8, otherwise in base64 under ``NAME_b64``."""
    out: dict[str, Any] = {}
    for name, data in fields:
        try:
            out[name] = data.decode()
        except UnicodeDecodeError:
            out[f"{name}_b64"] = base64.b64encode(data).decode("ascii")
    return out
