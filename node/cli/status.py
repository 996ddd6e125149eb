"""``bondstone status``."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from node.api import schemas
from node.cli.common import connect, print_json, visible


def command(
    url: Annotated[list[str] | None, typer.Option(help="A node's API; may be given several times.")] = None,
    token: Annotated[str | None, typer.Option(help="Bearer token.")] = None,
    ca: Annotated[Path | None, typer.Option(help="The nodes' API certificates, PEM.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the group as one node sees it. Exit code 1 if that node is not online in it."""
    with connect(url, token, ca) as client:
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
    if not group.online:
        raise typer.Exit(1)


def _print(group: schemas.Group, members: schemas.Members, bonds: schemas.Bonds) -> None:
    console = Console()
    console.print(f"group    {group.group_id}")
    console.print(f"machine  {group.state_machine}")
    console.print(
        f"answered by {group.me.name}, {group.role}, term {group.term}, commit {group.commit_index}"
    )
    if group.mock:
        console.print("[yellow]mock attestation: no hardware trust[/yellow]")
    if group.halted:
        console.print(f"[red bold]halted: {group.halted}[/red bold]")
    for warning in group.warnings:
        console.print(visible(f"{warning.message} ({warning.code})"), style="yellow")
    expiry = {bond.peer_id: bond.expires_at for bond in bonds.bonds}
    table = Table()
    for column in ("name", "role", "bond", "admitted until", "api", "peer id"):
        table.add_column(column, overflow="fold")
    for member in members.members:
        until = expiry.get(member.peer_id)
        table.add_row(
            member.name,
            member.role,
            "self" if member.self else "up" if member.bonded else "[red]down[/red]",
            "-" if until is None else f"{until:%m-%d %H:%M}Z",
            member.api or "-",
            member.peer_id[:8],
        )
    console.print(table)
