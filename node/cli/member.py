"""``bondstone member``: the members of the group.

Exit codes of ``list``: 0 printed; 2 usage; 3 no node answered.
"""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from node.api import schemas
from node.cli.connect import connect
from node.cli.output import BAD, CAUTION, Part, print_json, say, table

app = typer.Typer()

Url = Annotated[list[str] | None, typer.Option("--url", help="A node's API; may be given several times.")]
Token = Annotated[str | None, typer.Option("--token", help="Bearer token.")]
Ca = Annotated[Path | None, typer.Option("--ca", help="The nodes' API certificates, PEM.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_members(url: Url = None, token: Token = None, ca: Ca = None, as_json: AsJson = False) -> None:
    """Show every member as one node sees it: its role, how far it is, and a pending change of the voters."""
    with connect(url, token, ca) as client:
        members = client.members()
    if as_json:
        print_json(msgspec.to_builtins(members))
        return
    say(f"configuration {members.config_epoch}")
    pending = members.pending_change
    if pending is not None:
        say((f"pending: configuration {pending.config_epoch}: {pending.reason}", CAUTION))
    columns = ("name", "role", "connected", "caught up", "lag", "pending", "peer id")
    table(columns, [_row(member) for member in members.members])


def _row(member: schemas.Member) -> tuple[Part, ...]:
    connected: Part = "self" if member.self else "yes" if member.connected else ("no", BAD)
    caught_up = {True: "yes", False: "no", None: "-"}[member.caught_up]
    return (
        member.name,
        member.role,
        connected,
        caught_up,
        "-" if member.lag is None else str(member.lag),
        member.pending or "-",
        member.peer_id[:8],
    )
