"""``bondstone kv lease``: leases, by the ids in hex that etcdctl prints."""

from pathlib import Path
from typing import Annotated

import typer

from node.cli import kv_forms as forms
from node.cli.connect import connect
from node.cli.kv_shown import json_of
from node.cli.output import print_json, say, visible_bytes

leases = typer.Typer()
Url = Annotated[list[str] | None, typer.Option(help="A node's API; may be given several times.")]
Token = Annotated[str | None, typer.Option(help="Bearer token.")]
Ca = Annotated[Path | None, typer.Option(help="The nodes' API certificates, PEM.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Id = Annotated[str, typer.Argument(help="The lease's id, hex.")]


@leases.command()
def grant(
    ttl: Annotated[int, typer.Argument(min=1, help="Seconds.")],
    lease_id: Annotated[str, typer.Option("--id", help="The id, hex; by default a new one.")] = "0",
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Make a lease. Exit code 1: there is one with this id, or the time is too long."""
    command = ["lease-grant", forms.lease_id(lease_id), ttl]
    with connect(url, token, ca) as client:
        revision, number, granted = map(forms.whole, forms.members(client.execute(command).result, 3))
    if as_json:
        print_json({"revision": revision, "id": number, "ttl": granted})
    else:
        say(f"lease {number:016x} granted with TTL({granted}s)")


@leases.command()
def revoke(
    lease_id: Id, url: Url = None, token: Token = None, ca: Ca = None, as_json: AsJson = False
) -> None:
    """End a lease, and delete its keys. Exit code 1: there is no such lease."""
    number = forms.lease_id(lease_id)
    with connect(url, token, ca) as client:
        revision, deleted = map(
            forms.whole, forms.members(client.execute(["lease-revoke", number]).result, 2)
        )
    if as_json:
        print_json({"revision": revision, "id": number, "deleted": deleted})
    else:
        say(f"lease {number:016x} revoked")


@leases.command()
def timetolive(
    lease_id: Id,
    keys: Annotated[bool, typer.Option("--keys", help="Show the keys that go with it.")] = False,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Show how long a lease still holds. Exit code 1: there is no such lease."""
    number = forms.lease_id(lease_id)
    with connect(url, token, ca) as client:
        answer = client.query(["lease-ttl", number, keys]).result
    _, left, granted, held = forms.members(answer, 4)
    attached = [forms.of_b64(each) for each in held]
    exists = forms.whole(left) >= 0
    if as_json:
        shown = {"keys": [json_of(("key", each)) for each in attached]} if keys else {}
        print_json({"id": number, "ttl": left, "granted_ttl": granted} | shown)
    elif exists:
        say(f"lease {number:016x} granted with TTL({granted}s), remaining({left}s)")
        for each in attached:
            say(visible_bytes(each))
    else:
        say(f"lease {number:016x} does not exist, or has expired", error=True)
    if not exists:
        raise typer.Exit(1)


@leases.command("list")
def list_leases(url: Url = None, token: Token = None, ca: Ca = None, as_json: AsJson = False) -> None:
    """List all leases."""
    with connect(url, token, ca) as client:
        _, ids = forms.members(client.query(["leases"]).result, 2)
    numbers = [forms.whole(each) for each in ids]
    if as_json:
        print_json({"leases": numbers})
        return
    say(f"found {len(numbers)} leases")
    for number in numbers:
        say(f"{number:016x}")
