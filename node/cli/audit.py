"""``bondstone audit list|verify``."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from attestation.files import FileError
from node.audit import (
    AuditChain,
    AuditChainError,
    AuditHead,
    HeadGoneError,
    lines_of_log,
    verify_kept_untrusted,
)
from node.cli.connect import connect
from node.cli.exits import UNDECIDED
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
        typer.Argument(help="A node's audit.jsonl, with its older files beside it; default: the live log."),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="A head that was kept, SEQ:HASH; the log must still contain it."),
    ] = None,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Check the whole hash chain, and which node begins each life in it.

    Exit code 0 intact, 1 broken (with the place), 3 undecided: the kept head's event is deleted, or the node
    does not answer.
    """
    kept = None if head is None else _kept(head)
    lines: Iterator[bytes] = (json.dumps(event).encode() for event in _fetch(url, token, ca, 0))
    if file is not None:
        if not file.is_file():
            raise ConfigError(f"{file} is no file: give a node's audit.jsonl")
        lines = lines_of_log(file)
    try:
        chain = verify_kept_untrusted(lines, kept=kept)
    except HeadGoneError as exc:
        if as_json:
            print_json({"intact": None, "problem": str(exc)})
        else:
            say(f"undecided: {exc}")
        raise typer.Exit(UNDECIDED) from exc
    except FileError as exc:
        raise ConfigError(str(exc)) from exc
    except AuditChainError as exc:
        print_json({"intact": False, "problem": str(exc)}) if as_json else say(f"broken: {exc}")
        raise typer.Exit(1) from exc
    if as_json:
        lives = [{"seq": life.seq, "peer_id": life.peer_id, "name": life.name} for life in chain.lives]
        print_json(
            {
                "intact": True,
                "seq": chain.head.seq,
                "hash": chain.head.hash,
                "after": chain.after.seq,
                "kept_head": head,
                "lives": lives,
            }
        )
        return
    say(_intact(chain))
    for text in _lives(chain):
        say(text)
    if head is None:
        say(f"store this elsewhere, and pass it to --head next time: {chain.head.seq}:{chain.head.hash}")


def _intact(chain: AuditChain) -> str:
    if chain.after.seq == 0:
        return f"intact: {chain.head.seq} events, head {chain.head.hash}"
    first = chain.after.seq + 1
    return f"intact: events {first} to {chain.head.seq} (older ones were deleted), head {chain.head.hash}"


def _lives(chain: AuditChain) -> Iterator[str]:
    """Yield the author of each range of events. A user that verified a node's evidence knows its peer id."""
    begins = [life.seq for life in chain.lives]
    first = chain.after.seq + 1
    unsigned_to = (begins[0] if begins else chain.head.seq + 1) - 1
    if unsigned_to >= first:
        why = (
            "the event that began their process was deleted"
            if chain.after.seq
            else "no signature covers where they begin"
        )
        yield f"events {first} to {unsigned_to}: {why}"
    ends = [*(begin - 1 for begin in begins[1:]), chain.head.seq]
    for life, end in zip(chain.lives, ends, strict=False):  # without lives, ``ends`` has one more
        yield f"events {life.seq} to {end}: begun by {life.name}, incarnation {life.peer_id}"


def _kept(text: str) -> AuditHead:
    seq, _, digest = text.partition(":")
    if not (seq.isascii() and seq.isdigit() and 0 < len(seq) < 19 and int(seq) > 0):
        raise ConfigError(f"--head {text!r} is not SEQ:HASH")
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ConfigError(f"--head {text!r} is not SEQ:HASH, with 64 lower-case hex digits")
    return AuditHead(seq=int(seq), hash=digest)


def _fetch(url: list[str] | None, token: str | None, ca: Path | None, after: int) -> Iterator[dict[str, Any]]:
    with connect(url, token, ca) as client:
        while page := [dict(event) for event in client.audit_events(after=after, limit=PAGE)]:
            yield from page
            after = page[-1]["seq"]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"
