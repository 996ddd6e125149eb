"""``bondstone kv``: the key-value store, in the words of etcdctl (docs/kv.md).

Keys and values are bytes. The command line has them as text, or in hex (``--hex``) or Base64 (``--base64``).
A value can also come from a file or from standard input. Plain ``put``, ``get``, ``del`` and ``list`` work
with every version of the machine, all else from the third on.
"""

import base64
import binascii
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli import kv_forms as forms
from node.cli.connect import connect
from node.cli.kv_forms import Order, Row, SortBy
from node.cli.kv_lease import leases
from node.cli.kv_shown import json_of, json_of_found, json_of_response, json_of_row, say_response, say_rows
from node.cli.kv_txn import TEXT_BYTES_MAX, transaction
from node.cli.output import print_json, say, table, value_bytes, visible_bytes
from node.client import Item
from node.client.inputs import read_file
from node.errors import ConfigError
from node.machines.kv import VALUE_BYTES_MAX

app = typer.Typer()
app.add_typer(leases, name="lease", help="Grant, revoke and show leases.")
Url = Annotated[list[str] | None, typer.Option(help="A node's API; may be given several times.")]
Token = Annotated[str | None, typer.Option(help="Bearer token.")]
Ca = Annotated[Path | None, typer.Option(help="The nodes' API certificates, PEM.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Weak = Annotated[bool, typer.Option("--weak", help="Read one node's state, which may be old.")]
PrevKv = Annotated[bool, typer.Option("--prev-kv", help="Show what was there before.")]
Prefix = Annotated[bool, typer.Option("--prefix", help="All keys that begin with KEY.")]
FromKey = Annotated[bool, typer.Option("--from-key", help="All keys from KEY on.")]
RangeEnd = Annotated[str | None, typer.Argument(help="All keys from KEY on that are before this one.")]
Hex = Annotated[bool, typer.Option("--hex", help="Keys and values on the command line are hex.")]
Base64 = Annotated[bool, typer.Option("--base64", help="Keys and values on the command line are base64.")]


@app.command()
def put(
    key: str,
    value: Annotated[str | None, typer.Argument(help="`-` reads it from standard input.")] = None,
    file: Annotated[Path | None, typer.Option(help="Read the value from this file, unchanged.")] = None,
    lease: Annotated[str | None, typer.Option(help="The lease that the key goes with, hex.")] = None,
    prev_kv: PrevKv = False,
    ignore_value: Annotated[bool, typer.Option("--ignore-value", help="Keep the present value.")] = False,
    ignore_lease: Annotated[bool, typer.Option("--ignore-lease", help="Keep the present lease.")] = False,
    as_hex: Hex = False,
    as_base64: Base64 = False,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Write a value. Exit code 0 written, 1 refused, 3 could not be written, or the outcome is unknown."""
    data = b""
    if not ignore_value or value is not None or file is not None:
        data = _given_value(value, file, as_hex=as_hex, as_base64=as_base64)
    name = given(key, what="key", as_hex=as_hex, as_base64=as_base64)
    flags = forms.PREV_KV * prev_kv | forms.IGNORE_VALUE * ignore_value | forms.IGNORE_LEASE * ignore_lease
    with connect(url, token, ca) as client:
        if lease is None and not flags:
            revision, before = client.put(_field(name), _field(data)), None
        else:
            command = forms.put(name, data, lease=forms.lease_id(lease or "0"), flags=flags)
            answer = forms.members(client.execute(command).result, 2)
            revision = forms.whole(answer[0])
            before = None if answer[1] is None else forms.row(answer[1])
    if as_json:
        print_json({"revision": revision} | ({"prev_kv": before and json_of_row(before)} if prev_kv else {}))
        return
    say(f"revision {revision}")
    if before is not None:
        say_rows([before])


@app.command()
def get(
    key: Annotated[str, typer.Argument()] = "",
    range_end: RangeEnd = None,
    prefix: Prefix = False,
    from_key: FromKey = False,
    rev: Annotated[int, typer.Option(min=0, help="The state at this revision of the store.")] = 0,
    limit: Annotated[int, typer.Option(min=0, help="At most this many keys; 0: all.")] = 0,
    sort_by: Annotated[SortBy | None, typer.Option(help="What the keys are sorted by.")] = None,
    order: Annotated[Order | None, typer.Option(help="In which direction.")] = None,
    keys_only: Annotated[bool, typer.Option("--keys-only", help="Without the values.")] = False,
    count_only: Annotated[bool, typer.Option("--count-only", help="Only how many keys there are.")] = False,
    as_hex: Hex = False,
    as_base64: Base64 = False,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    weak: Weak = False,
    as_json: AsJson = False,
) -> None:
    """Print a value, exactly its bytes unless on a terminal. Exit code 1: no such key, 3: unknown.

    A range prints each key and its value in a line, as `list` shows them, and has exit code 0.
    """
    name = given(key, what="key", as_hex=as_hex, as_base64=as_base64)
    end = None if range_end is None else given(range_end, what="key", as_hex=as_hex, as_base64=as_base64)
    span = forms.bounds(name, end, prefix=prefix, from_key=from_key)
    is_one = span[1] == forms.ONE_KEY and not (keys_only or count_only)
    query = forms.range_(
        span,
        limit=limit,
        revision=rev,
        sort_by=sort_by,
        order=order,
        keys_only=keys_only,
        count_only=count_only,
    )
    with connect(url, token, ca) as client:
        consistency = "weak" if weak else "strong"
        if is_one and not rev:
            one(name, client.get(_field(name), consistency=consistency), as_json=as_json)
            return
        found = forms.found(client.query(query, consistency=consistency).result)
    if is_one:
        one(name, found.rows[0] if found.rows else None, as_json=as_json)
    elif as_json:
        print_json(json_of_found(found, keys_only=keys_only))
    elif count_only:
        say(str(found.count))
    else:
        say_rows(found.rows, keys_only=keys_only)


def one(name: bytes, held: Item | Row | None, *, as_json: bool) -> None:
    """Print what one key holds. Raises ``typer.Exit`` with code 1 if it holds nothing."""
    if as_json:
        print_json(None if held is None else _value(held))
    elif held is None:
        say(f"no such key: {visible_bytes(name)}", error=True)
    else:
        value_bytes(held.value)
    if held is None:
        raise typer.Exit(1)


@app.command("del")
def delete(
    key: Annotated[str, typer.Argument()] = "",
    range_end: RangeEnd = None,
    prefix: Prefix = False,
    from_key: FromKey = False,
    prev_kv: PrevKv = False,
    as_hex: Hex = False,
    as_base64: Base64 = False,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Delete a key, or a range. Exit code 1 if there was none, 3 if the outcome is unknown."""
    name = given(key, what="key", as_hex=as_hex, as_base64=as_base64)
    end = None if range_end is None else given(range_end, what="key", as_hex=as_hex, as_base64=as_base64)
    span = forms.bounds(name, end, prefix=prefix, from_key=from_key)
    if span[1] == forms.ONE_KEY and not prev_kv:
        _delete_one(name, url, token, ca, as_json=as_json)
        return
    with connect(url, token, ca) as client:
        answer = forms.members(client.execute(forms.delete(span, prev_kv=prev_kv)).result, 3)
    deleted, rows = forms.whole(answer[1]), [forms.row(each) for each in answer[2]]
    if as_json:
        more = {"prev_kvs": [json_of_row(each) for each in rows]} if prev_kv else {}
        print_json({"revision": answer[0], "deleted": deleted} | more)
    else:
        say(str(deleted))
        say_rows(rows)
    if not deleted:
        raise typer.Exit(1)


def _delete_one(
    name: bytes, url: list[str] | None, token: str | None, ca: Path | None, *, as_json: bool
) -> None:
    with connect(url, token, ca) as client:
        deleted = client.delete(_field(name))
    if as_json:
        print_json({"deleted": deleted})
    else:
        say("deleted" if deleted else f"no such key: {visible_bytes(name)}", error=not deleted)
    if not deleted:
        raise typer.Exit(1)


@app.command()
def txn(
    as_hex: Hex = False,
    as_base64: Base64 = False,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Execute a transaction from standard input, in the form that etcdctl reads (docs/kv.md).

    Exit code 0: all compares held, 1: they did not, and what is for that case was done.
    """
    text = sys.stdin.buffer.read(TEXT_BYTES_MAX + 1)
    if len(text) > TEXT_BYTES_MAX:
        raise ConfigError(f"the transaction is larger than {TEXT_BYTES_MAX} bytes")

    def meant(data: bytes) -> bytes:
        return given(os.fsdecode(data), what="key or value", as_hex=as_hex, as_base64=as_base64)

    command = transaction(text, meant)
    with connect(url, token, ca) as client:
        revision, succeeded, responses = forms.members(client.execute(command).result, 3)
    if as_json:
        print_json(
            {
                "revision": revision,
                "succeeded": succeeded,
                "responses": [json_of_response(each) for each in responses],
            }
        )
    else:
        say("SUCCESS" if succeeded else "FAILURE")
        for each in responses:
            say_response(each)
    if not succeeded:
        raise typer.Exit(1)


@app.command()
def compact(
    revision: Annotated[int, typer.Argument(min=1)],
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Forget what keys held before a revision. Exit code 1: it is compacted already, or in the future."""
    with connect(url, token, ca) as client:
        client.execute(["compact", revision])
    print_json({"compacted": revision}) if as_json else say(f"compacted revision {revision}")


@app.command()
def hashkv(
    rev: Annotated[int, typer.Option(min=0, help="Up to this revision; 0: the present one.")] = 0,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    weak: Weak = False,
    as_json: AsJson = False,
) -> None:
    """Print a hash of keys, values and history: equal on all members that hold the same."""
    with connect(url, token, ca) as client:
        asked = client.query(["hashkv", rev], consistency="weak" if weak else "strong")
    revision, hash32, compacted = map(forms.whole, forms.members(asked.result, 3))
    if as_json:
        print_json({"revision": revision, "hash": hash32, "compact_revision": compacted})
    else:
        say(f"{hash32}, revision {rev or revision}, compacted at {compacted}")


@app.command("list")
def list_keys(
    prefix: Annotated[str, typer.Argument()] = "",
    as_hex: Hex = False,
    as_base64: Base64 = False,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    weak: Weak = False,
    as_json: AsJson = False,
) -> None:
    r"""List the keys with a prefix: what is no printable text as ``\xNN``, a backslash as ``\\``."""
    name = given(prefix, what="prefix", as_hex=as_hex, as_base64=as_base64)
    with connect(url, token, ca) as client:
        items = list(client.list(_field(name), consistency="weak" if weak else "strong"))
    if as_json:
        print_json([_value(item) for item in items])
        return
    table(
        ("key", "value", "revision", "version"),
        (
            (visible_bytes(item.key), visible_bytes(item.value), str(item.mod_revision), str(item.version))
            for item in items
        ),
    )


def _value(item: Item | Row) -> dict[str, Any]:
    return json_of(("key", item.key), ("value", item.value)) | {
        "create_revision": item.create_revision,
        "mod_revision": item.mod_revision,
        "version": item.version,
    }


def _field(data: bytes) -> str | bytes:
    """Return text as text: the API has it in this form, and other programs show it in this form."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def given(text: str, *, what: str, as_hex: bool, as_base64: bool) -> bytes:
    """Return the bytes of an argument. For text these are exactly the bytes that the shell has passed.

    Raises:
        ConfigError: ``text`` is not in the form that the flags name.
    """
    if as_hex and as_base64:
        raise ConfigError("--hex or --base64, not both")
    data = os.fsencode(text)
    try:
        if as_hex:
            return binascii.unhexlify(data)
        if as_base64:
            return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ConfigError(f"the {what} is not {'hex' if as_hex else 'base64'}: {exc}") from exc
    return data


def _given_value(text: str | None, file: Path | None, *, as_hex: bool, as_base64: bool) -> bytes:
    if (text is None) == (file is None):
        raise ConfigError("which value? hint: give it as an argument, `-` for standard input, or --file FILE")
    if file is not None:
        return read_file(file, what="value", bytes_max=VALUE_BYTES_MAX)
    assert text is not None
    if text != "-":
        return given(text, what="value", as_hex=as_hex, as_base64=as_base64)
    data = sys.stdin.buffer.read(VALUE_BYTES_MAX + 1)
    if len(data) > VALUE_BYTES_MAX:
        raise ConfigError(f"the value from standard input is larger than {VALUE_BYTES_MAX} bytes")
    return data
