"""``bondstone kv get|put|del|list``.

Keys and values are bytes. The command line has them as text, or in hex (``--hex``) or Base64 (``--base64``).
A value can also come from a file or from standard input.
"""

import base64
import binascii
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.connect import connect
from node.cli.output import print_json, say, table, value_bytes, visible_bytes
from node.client import Item
from node.client.inputs import read_file
from node.errors import ConfigError
from node.machines.kv import VALUE_BYTES_MAX

app = typer.Typer()
Url = Annotated[list[str] | None, typer.Option(help="A node's API; may be given several times.")]
Token = Annotated[str | None, typer.Option(help="Bearer token.")]
Ca = Annotated[Path | None, typer.Option(help="The nodes' API certificates, PEM.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Weak = Annotated[bool, typer.Option("--weak", help="Read one node's state, which may be old.")]
Hex = Annotated[bool, typer.Option("--hex", help="Keys and values on the command line are hex.")]
Base64 = Annotated[bool, typer.Option("--base64", help="Keys and values on the command line are base64.")]


@app.command()
def put(
    key: str,
    value: Annotated[str | None, typer.Argument(help="`-` reads it from standard input.")] = None,
    file: Annotated[Path | None, typer.Option(help="Read the value from this file, unchanged.")] = None,
    as_hex: Hex = False,
    as_base64: Base64 = False,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Write a value. Exit code 0 written, 1 refused, 3 could not be written, or the outcome is unknown."""
    data = _given_value(value, file, as_hex=as_hex, as_base64=as_base64)
    name = _given(key, what="key", as_hex=as_hex, as_base64=as_base64)
    with connect(url, token, ca) as client:
        revision = client.put(_field(name), _field(data))
    print_json({"revision": revision}) if as_json else say(f"revision {revision}")


@app.command()
def get(
    key: str,
    as_hex: Hex = False,
    as_base64: Base64 = False,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    weak: Weak = False,
    as_json: AsJson = False,
) -> None:
    """Print a value, exactly its bytes unless on a terminal. Exit code 1: no such key, 3: unknown."""
    name = _given(key, what="key", as_hex=as_hex, as_base64=as_base64)
    with connect(url, token, ca) as client:
        item = client.get(_field(name), consistency="weak" if weak else "strong")
    if as_json:
        print_json(None if item is None else _value(item))
    elif item is None:
        say(f"no such key: {visible_bytes(name)}", error=True)
    else:
        value_bytes(item.value)
    if item is None:
        raise typer.Exit(1)


@app.command("del")
def delete(
    key: str,
    as_hex: Hex = False,
    as_base64: Base64 = False,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Delete a key. Exit code 1 if it was absent, 3 if the outcome is unknown."""
    name = _given(key, what="key", as_hex=as_hex, as_base64=as_base64)
    with connect(url, token, ca) as client:
        deleted = client.delete(_field(name))
    if as_json:
        print_json({"deleted": deleted})
    else:
        say("deleted" if deleted else f"no such key: {visible_bytes(name)}", error=not deleted)
    if not deleted:
        raise typer.Exit(1)


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
    name = _given(prefix, what="prefix", as_hex=as_hex, as_base64=as_base64)
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


def _value(item: Item) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, data in (("key", item.key), ("value", item.value)):
        field = _field(data)
        if isinstance(field, str):
            out[name] = field
        else:
            out[f"{name}_b64"] = base64.b64encode(field).decode()
    return out | {
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


def _given(text: str, *, what: str, as_hex: bool, as_base64: bool) -> bytes:
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
        return _given(text, what="value", as_hex=as_hex, as_base64=as_base64)
    data = sys.stdin.buffer.read(VALUE_BYTES_MAX + 1)
    if len(data) > VALUE_BYTES_MAX:
        raise ConfigError(f"the value from standard input is larger than {VALUE_BYTES_MAX} bytes")
    return data
