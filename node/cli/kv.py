"""``bondstone kv get|put|del|list``."""

import base64
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from node.cli.common import connect, print_json
from node.client import Item

app = typer.Typer()
Url = Annotated[list[str] | None, typer.Option(help="A node's API; may be given several times.")]
Token = Annotated[str | None, typer.Option(help="Bearer token.")]
Ca = Annotated[Path | None, typer.Option(help="The nodes' API certificates, PEM.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Weak = Annotated[bool, typer.Option("--weak", help="Read one node's state, which may be old.")]


def _value(item: Item) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, data in (("key", item.key), ("value", item.value)):
        try:
            out[name] = data.decode()
        except UnicodeDecodeError:
            out[f"{name}_b64"] = base64.b64encode(data).decode()
    return out | {
        "create_revision": item.create_revision,
        "mod_revision": item.mod_revision,
        "version": item.version,
    }


@app.command()
def put(
    key: str, value: str, url: Url = None, token: Token = None, ca: Ca = None, as_json: AsJson = False
) -> None:
    """Write a value. `-` reads it from standard input."""
    data: str | bytes = sys.stdin.buffer.read() if value == "-" else value
    with connect(url, token, ca) as client:
        revision = client.put(key, data)
    print_json({"revision": revision}) if as_json else print(f"revision {revision}")


@app.command()
def get(
    key: str,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    weak: Weak = False,
    as_json: AsJson = False,
) -> None:
    """Print a value; exit code 1 if there is none."""
    with connect(url, token, ca) as client:
        item = client.get(key, consistency="weak" if weak else "strong")
    if as_json:
        print_json(None if item is None else _value(item))
    elif item is None:
        print(f"no such key: {key}", file=sys.stderr)
    else:
        sys.stdout.buffer.write(item.value)
        if sys.stdout.isatty() or not item.value.endswith(b"\n"):
            sys.stdout.buffer.write(b"\n")
    if item is None:
        raise typer.Exit(1)


@app.command("del")
def delete(key: str, url: Url = None, token: Token = None, ca: Ca = None, as_json: AsJson = False) -> None:
    """Delete a key; exit code 1 if there was none."""
    with connect(url, token, ca) as client:
        deleted = client.delete(key)
    print_json({"deleted": deleted}) if as_json else print("deleted" if deleted else f"no such key: {key}")
    if not deleted:
        raise typer.Exit(1)


@app.command("list")
def list_keys(
    prefix: Annotated[str, typer.Argument()] = "",
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    weak: Weak = False,
    as_json: AsJson = False,
) -> None:
    """List the keys with a prefix."""
    with connect(url, token, ca) as client:
        items = list(client.list(prefix, consistency="weak" if weak else "strong"))
    if as_json:
        print_json([_value(item) for item in items])
        return
    table = Table()
    for column in ("key", "value", "revision", "version"):
        table.add_column(column, overflow="fold")
    for item in items:
        shown = _value(item)
        table.add_row(
            shown.get("key") or shown.get("key_b64"),
            shown["value"] if "value" in shown else shown["value_b64"],
            str(item.mod_revision),
            str(item.version),
        )
    Console().print(table)
