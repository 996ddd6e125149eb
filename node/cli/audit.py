"""``bondstone audit list|verify``."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from node.audit import AuditChain, AuditChainError, lines_of_log, verify_kept_untrusted
from node.cli.common import connect
from node.cli.output import print_json, say
from node.errors import ConfigError

app = typer.Typer()
Url = Annotated[list[str] | None, typer.Option(help="The node whose log it is.")]
Token = Annotated[str | None, typer.Option(help="Bearer token with the role audit.")]
Ca = Annotated[Path | None, typer.Option(help="The nodes' API certificates, PEM.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PAGE = 500


@app.command("list")
def list_events(
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    after: Annotated[int, typer.Option(help="Only events after this sequence number.")] = 0,
    as_json: AsJson = False,
) -> None:
    """List admissions, refusals, expiries and departures with their reasons."""
    events = _fetch(url, token, ca, after)
    if as_json:
        print_json(list(events))
        return
    for event in events:
        rest = {k: v for k, v in event.items() if k not in ("seq", "at", "kind", "prev", "hash")}
        shown = " ".join(
            f"{key}={_short(value)}" for key, value in rest.items() if value not in (None, {}, [])
        )
        say(f"{event['seq']:>6}  {event['at']}  {event['kind']:<16}  {shown}")


@app.command()
def verify(
    file: Annotated[
        Path | None,
        typer.Argument(help="A node's audit.jsonl, the older files beside it; else the live log."),
    ] = None,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Check the whole hash chain. Exit code 1 if it is broken, saying where."""
    lines: Iterator[bytes] = (json.dumps(event).encode() for event in _fetch(url, token, ca, 0))
    if file is not None:
        if not file.is_file():
            raise ConfigError(f"{file} is no file: give a node's audit.jsonl")
        lines = lines_of_log(file)
    try:
        chain = verify_kept_untrusted(lines)
    except AuditChainError as exc:
        print_json({"intact": False, "problem": str(exc)}) if as_json else say(f"broken: {exc}")
        raise typer.Exit(1) from exc
    if as_json:
        print_json({"intact": True, "seq": chain.head.seq, "hash": chain.head.hash, "after": chain.after.seq})
    else:
        say(_intact(chain))


def _intact(chain: AuditChain) -> str:
    if chain.after.seq == 0:
        return f"intact: {chain.head.seq} events, head {chain.head.hash}"
    first = chain.after.seq + 1
    return f"intact: events {first} to {chain.head.seq} (older ones were deleted), head {chain.head.hash}"


def _fetch(url: list[str] | None, token: str | None, ca: Path | None, after: int) -> Iterator[dict[str, Any]]:
    with connect(url, token, ca) as client:
        while page := [dict(event) for event in client.audit_events(after=after, limit=PAGE)]:
            yield from page
            after = page[-1]["seq"]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"
