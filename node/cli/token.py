"""``bondstone token new|list|revoke``: who may call the group."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from node.api import schemas
from node.cli.connect import connect
from node.cli.inputs import parse_time
from node.cli.output import print_json, say, say_lines, table
from node.errors import ConfigError
from node.machines.base import CommandError
from node.system.forms import decode_grant_untrusted, encode_grant, roles_in_order
from node.system.grants import CredentialKind, Grant
from node.tokens import AccessRole, hash_token, new_token, render_token_entry

app = typer.Typer()
Url = Annotated[list[str] | None, typer.Option(help="A node's API; may be given several times.")]
Token = Annotated[str | None, typer.Option(help="An admin's bearer token.")]
Ca = Annotated[Path | None, typer.Option(help="The nodes' API certificates, PEM.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


@app.callback()
def token() -> None:
    """Say who may call the group."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Its name in the list.")],
    role: Annotated[
        list[AccessRole], typer.Option(help="A role; may be given several times. admin: everything.")
    ],
    prefix: Annotated[
        list[str] | None,
        typer.Option(help="Limits read and write to keys with this prefix; may be repeated."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="When it expires: after 30m, 12h or 90d, or at a time, ISO 8601.")
    ] = None,
    offline: Annotated[
        bool, typer.Option(help="Contact no group; print the table for a group document's founding list.")
    ] = False,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and let it call the group. It is shown once; the group receives its digest alone."""
    roles, prefixes = list(dict.fromkeys(role)), list(dict.fromkeys(prefix or ()))
    expires_at = None if expires is None else _end(expires, datetime.now(UTC))
    made = new_token()
    _check(name, made, roles, prefixes, expires_at)
    if offline:
        end = None if expires_at is None else f"{expires_at:%Y-%m-%dT%H:%M:%SZ}"
        entry = render_token_entry(name, made, roles, prefixes=prefixes, expires_at=end)
        if as_json:
            print_json({"name": name, "token": made, "sha256": hash_token(made), "table": entry})
        else:
            say_lines(f"{entry}\n# The token, shown only now; keep it out of the document:\n# {made}")
        return
    with connect(url, token, ca) as client:
        changed = client.grant(
            name,
            [one.value for one in roles],
            token_sha256=hash_token(made),
            prefixes=prefixes,
            expires_at=expires_at,
        )
    if as_json:
        print_json({"token": made, **_changed(changed)})
    else:
        say(made)


@app.command("list")
def list_access(url: Url = None, token: Token = None, ca: Ca = None, as_json: AsJson = False) -> None:
    """Show every credential that may call the group."""
    with connect(url, token, ca) as client:
        listing = client.access()
    if as_json:
        print_json(
            {
                "access": [_described(grant) for grant in listing.access],
                "at": {"term": listing.at.term, "index": listing.at.index},
            }
        )
        return
    rows = []
    for grant in listing.access:
        until = "" if grant.expires_at is None else f"{grant.expires_at:%Y-%m-%d %H:%M:%S}Z"
        rows.append(
            (
                grant.name,
                grant.kind,
                " ".join(grant.roles),
                "every key" if grant.prefixes is None else " ".join(grant.prefixes),
                f"{until} (expired)" if grant.expired else until,
                grant.credential[:16],
            )
        )
    table(("name", "kind", "roles", "key prefixes", "until", "credential"), rows)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Its name in the list.")],
    force: Annotated[
        bool, typer.Option(help="Revoke even the last admin: then the list can never be changed again.")
    ] = False,
    url: Url = None,
    token: Token = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a credential, on every node from the same index on."""
    with connect(url, token, ca) as client:
        changed = client.revoke(name, force=force)
    if as_json:
        print_json(_changed(changed))
        return
    say(f"revoked at index {changed.index}; {changed.admins} admin(s) left")
    if not changed.admins:
        say("the access list can no longer be changed; its credentials stay valid (docs/access.md)")


def _check(
    name: str, made: str, roles: list[AccessRole], prefixes: list[str], expires_at: datetime | None
) -> None:
    """Raise ConfigError if every group would refuse this, before a request is sent."""
    grant = Grant(
        name=name,
        kind=CredentialKind.TOKEN,
        credential=bytes.fromhex(hash_token(made)),
        roles=roles_in_order(roles),
        prefixes=tuple(prefix.encode() for prefix in prefixes),
        expires_ms=None if expires_at is None else int(expires_at.timestamp()) * 1000,
    )
    try:
        decode_grant_untrusted(encode_grant(grant))
    except CommandError as exc:
        raise ConfigError(exc.message) from exc


def _end(text: str, now: datetime) -> datetime:
    """Return when a token ends, in whole seconds."""
    lasting = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", text, re.ASCII)
    if lasting is None:
        return parse_time(text).replace(microsecond=0)
    return (now + timedelta(**{_UNITS[lasting[2]]: int(lasting[1])})).replace(microsecond=0)


def _changed(changed: schemas.AccessChanged) -> dict[str, Any]:
    return {
        "name": changed.name,
        "credential": changed.credential,
        "admins": changed.admins,
        "at": {"term": changed.term, "index": changed.index},
    }


def _described(grant: schemas.AccessGrant) -> dict[str, Any]:
    return {
        "name": grant.name,
        "kind": grant.kind,
        "credential": grant.credential,
        "roles": list(grant.roles),
        "prefixes": None if grant.prefixes is None else list(grant.prefixes),
        "expires_at": None if grant.expires_at is None else grant.expires_at.isoformat(),
        "expired": grant.expired,
    }
