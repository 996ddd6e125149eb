"""``bondstone status``."""

from pathlib import Path
from time import sleep
from typing import Annotated, Final

import msgspec
import typer

from node.api import schemas
from node.cli.connect import connect
from node.cli.output import BAD, CAUTION, print_json, say, table
from node.client import BondstoneClient, ClientError

WATCH_S: Final = 2.0


def command(
    url: Annotated[list[str] | None, typer.Option(help="A node's API; may be given several times.")] = None,
    token: Annotated[str | None, typer.Option(help="Bearer token.")] = None,
    ca: Annotated[Path | None, typer.Option(help="The nodes' API certificates, PEM.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every 2 seconds, until Ctrl-C.")
    ] = False,
) -> None:
    """Show the group as one node sees it. Exit code 1 if that node is not online in it."""
    with connect(url, token, ca) as client:
        online = _show(client, as_json=as_json)
        while watch:
            sleep(WATCH_S)
            _show_again(client, as_json=as_json)
    if not online:
        raise typer.Exit(1)


def _show_again(client: BondstoneClient, *, as_json: bool) -> None:
    """Print it again, or that no node answers: an operator watches in order to see it return."""
    try:
        _show(client, as_json=as_json)
    except ClientError as exc:
        say((f"no answer: {exc}", BAD), error=True)


def _show(client: BondstoneClient, *, as_json: bool) -> bool:
    """Print what one node sees; return whether it is online in its group."""
    group, members, bonds = client.group(), client.members(), client.bonds()
    if as_json:
        print_json(
            {
                "group": msgspec.to_builtins(group),
                "members": msgspec.to_builtins(members.members),
                "bonds": msgspec.to_builtins(bonds.bonds),
            }
        )
    else:
        _print(group, members, bonds)
    return group.online


def _print(group: schemas.Group, members: schemas.Members, bonds: schemas.Bonds) -> None:
    say(f"group    {group.group_id}")
    say(f"machine  {group.state_machine}")
    say(f"answered by {group.me.name}, {group.role}, term {group.term}, commit {group.commit_index}")
    if group.mock:
        say(("mock attestation: no hardware trust", CAUTION))
    memory = group.memory
    say(
        f"memory   {memory.used / 1e6:,.1f} of {memory.budget / 1e6:,.1f} MB:"
        f" store {memory.store / 1e6:,.1f} (quota {memory.store_quota / 1e6:,.1f}),"
        f" log {memory.log / 1e6:,.1f}, snapshots {memory.snapshots / 1e6:,.1f},"
        f" keys and results {(memory.keys + memory.kept_results) / 1e6:,.1f},"
        f" buffers {(memory.buffers + memory.fetched) / 1e6:,.1f}"
    )
    if group.halted:
        say((f"halted: {group.halted}", BAD))
    for warning in group.warnings:
        say((f"{warning.message} ({warning.code})", CAUTION))
    if group.install is not None:
        fetched = group.install
        say(
            f"takes the group's state from {fetched.sources} members: {fetched.chunks} of {fetched.of_chunks}"
            f" chunks, {fetched.bytes / 1e6:,.1f} MB"
        )
    expiry = {bond.peer_id: bond.expires_at for bond in bonds.bonds}
    rows = []
    for member in members.members:
        until = expiry.get(member.peer_id)
        rows.append(
            (
                member.name,
                member.role,
                "self" if member.self else "up" if member.bonded else ("down", BAD),
                "-" if until is None else f"{until:%m-%d %H:%M}Z",
                member.api or "-",
                member.peer_id[:8],
            )
        )
    table(("name", "role", "bond", "admitted until", "api", "peer id"), rows)
