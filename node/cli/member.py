"""``bondstone member``: the members of the group.

Exit codes of ``list``: 0 printed; 2 usage; 3 no node answered. Of ``safe-to-stop``: 0 safe; 1 not safe;
2 usage; 3 not known, or no node answered. Of ``transfer`` and ``remove``: 0 done; 1 refused; 2 usage;
3 not known. Of ``wait``: 0 as wanted; 1 not in time; 2 usage; 3 no node answered.
"""

import time
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from node.api import schemas
from node.cli.connect import connect
from node.cli.exits import NO, UNDECIDED
from node.cli.output import BAD, CAUTION, Part, print_json, say, table

app = typer.Typer()
WAIT_S_MAX: Final = 86_400
PAUSE_S: Final = 0.5

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


@app.command("safe-to-stop")
def safe_to_stop(
    member: Annotated[str, typer.Argument(help="Name or peer id.")],
    wait: Annotated[
        int,
        typer.Option(min=0, max=WAIT_S_MAX, help="Ask again for up to this many seconds until it is safe."),
    ] = 0,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Ask the leader whether a member can stop now without risk to the group.

    Exit code 0 if it is safe, 1 if not, 3 if no node that was asked leads.
    """
    give_up = time.monotonic() + wait
    with connect(url, token, ca) as client:
        answer = client.safe_to_stop(member)
        while answer.verdict != "safe" and time.monotonic() < give_up:
            time.sleep(PAUSE_S)
            answer = client.safe_to_stop(member)
    if as_json:
        print_json(msgspec.to_builtins(answer))
    elif answer.verdict == "safe":
        say(f"{answer.member.name} can stop now")
    else:
        say((f"{answer.verdict}: {answer.message} ({answer.reason})", CAUTION))
    if answer.verdict != "safe":
        raise typer.Exit(NO if answer.verdict == "unsafe" else UNDECIDED)


@app.command("transfer")
def transfer(
    target: Annotated[
        str | None, typer.Argument(help="Name or peer id; by default the voter that is furthest.")
    ] = None,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
) -> None:
    """Make the leader hand over to another voter.

    Exit code 0 if it did, 1 if the leader refused, 3 if it is not known whether it did.
    """
    with connect(url, token, ca) as client:
        leader = client.transfer_leadership(target).leader
    say(f"{leader.name} leads")


@app.command("remove")
def remove(
    member: Annotated[str, typer.Argument(help="Name or peer id.")],
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
) -> None:
    """Remove a member from the group for good: this life of its node never votes or follows again.

    Its process ends its part in the group when it learns that. The same node joins again, as a new member,
    when its process is started again: stop it, or its supervisor, if it is to stay out.

    Exit code 0 if it is removed, 1 if the group cannot spare it, 3 if it is not known.
    """
    with connect(url, token, ca) as client:
        gone = client.remove_member(member).member
    say(f"{gone.name} is removed ({gone.peer_id[:8]})")


@app.command("wait")
def wait_for_voters(
    voters: Annotated[int, typer.Option(min=1, max=64, help="This many voters, all connected.")],
    timeout: Annotated[int, typer.Option(min=0, max=WAIT_S_MAX, help="Seconds to wait.")] = 60,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
) -> None:
    """Wait until the committed voters are this many, all are connected, and no change of them is pending.

    Exit code 0 if so, 1 if not in time.
    """
    give_up = time.monotonic() + timeout
    with connect(url, token, ca) as client:
        while True:
            members = client.members()
            missing = _missing(members, voters)
            if not missing:
                say(f"{voters} voters, all connected")
                return
            if time.monotonic() >= give_up:
                break
            time.sleep(PAUSE_S)
    say((missing, CAUTION))
    raise typer.Exit(NO)


def _missing(members: schemas.Members, wanted: int) -> str:
    """Return what is not as it is to be; empty if nothing."""
    voters = [member for member in members.members if member.role in ("leader", "voter")]
    away = [member.name for member in voters if not member.connected]
    if members.pending_change is not None:
        return f"a change of the voters is pending: {members.pending_change.reason}"
    if len(voters) != wanted:
        return f"{len(voters)} voters instead of {wanted}"
    return f"not connected: {', '.join(away)}" if away else ""
