"""``bondstone verify``."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from attestation.errors import AppraisalError, AttestationError
from attestation.values import timestamp
from node.cli.common import print_json
from node.cli.evidence import VerifiedNode, appraiser_of, require_cluster, require_confirmed, verify_node
from node.client import UnreachableError
from node.client.pins import PinError, Pins, default_pins
from node.system.birth import ConfirmedCluster

RTMR0_WAIVED: Final = (
    "RTMR[0] is not checked: the host made this node's ACPI tables, and their code can touch its memory"
)


def command(
    url: Annotated[str, typer.Argument(help="The node's API, https://HOST:PORT.")],
    group_document: Annotated[
        Path | None, typer.Option(help="Group document: gives policy, root, GroupId and MRCONFIGID.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="Appraisal policy, TOML; else the document's.")] = None,
    trust_root: Annotated[
        str | None, typer.Option(help="`intel`, or the file of another root; else the document's.")
    ] = None,
    collateral: Annotated[Path | None, typer.Option(help="DCAP collateral; else what is stapled.")] = None,
    group_id: Annotated[str | None, typer.Option(help="The group that it must be in, hex.")] = None,
    cluster: Annotated[
        str | None, typer.Option(help="The cluster that it must be in, ID/GENERATION or ID, hex.")
    ] = None,
    pins: Annotated[
        Path | None,
        typer.Option(
            envvar="BONDSTONE_PINS",
            help="Where verified clusters are remembered; else in ~/.local/state, and no mock ones.",
        ),
    ] = None,
    forget_pin: Annotated[
        bool, typer.Option("--forget-pin", help="Forget what was verified of this group before.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a live node: fresh nonce, evidence, TLS key, policy.

    Exit code 0 accepted, 1 refused, 3 could not decide (unreachable, collateral missing, in no
    cluster yet, `mrconfigid = "own"` and no group document).
    """
    appraiser = appraiser_of(
        group_document=group_document, policy=policy, trust_root=trust_root, group_id=group_id
    )
    try:
        node = verify_node(url, appraiser=appraiser, collateral=collateral)
        if cluster is not None:
            require_cluster(node, cluster)
        confirmed = None if appraiser.authority is None else require_confirmed(node, appraiser.authority)
        _remember(node, confirmed, pins=pins, forget=forget_pin)
    except AttestationError as exc:
        undecided = exc.undecided
        if as_json:
            print_json({"accepted": False, "reason": exc.reason, "message": exc.message, **_values(exc)})
        else:
            word = "undecided" if undecided else "refused"
            Console(stderr=True).print(f"[red bold]{word}[/red bold]: {exc.message} ({exc.reason})")
        raise typer.Exit(3 if undecided else 1) from exc
    except UnreachableError as exc:
        if as_json:
            print_json({"accepted": False, "reason": "unreachable", "message": str(exc)})
        else:
            Console(stderr=True).print(f"[red bold]undecided[/red bold]: {exc}")
        raise typer.Exit(3) from exc
    value = node.to_json_value() | {"confirmed": _confirmed_value(confirmed)}
    print_json(value) if as_json else _print(value)


def _remember(
    node: VerifiedNode, confirmed: ConfirmedCluster | None, *, pins: Path | None, forget: bool
) -> None:
    """Keep which cluster of this group was verified, and refuse another one than before.

    Mock evidence proves nothing, and each start of a local cluster founds a new one: it is remembered only
    where the user says.

    Raises:
        AppraisalError: ``cluster-changed`` or ``birth-certificate-superseded``.
    """
    group_id = node.live.document.group_id
    if node.cluster is None or group_id is None or (pins is None and node.live.document.mock):
        return
    known = Pins.load(default_pins() if pins is None else pins)
    group = bytes.fromhex(group_id)
    if forget:
        known = known.without(group)
    try:
        seq = None if confirmed is None else confirmed.statement.seq
        known.with_verified(group, node.cluster, seq).save()
    except PinError as exc:
        hint = f"{exc.message}. hint: --forget-pin, if you know why"
        raise AppraisalError(exc.reason, hint) from exc


def _confirmed_value(confirmed: ConfirmedCluster | None) -> dict[str, Any] | None:
    if confirmed is None:
        return None
    statement = confirmed.statement
    return {
        "seq": statement.seq,
        "predecessor": None if statement.predecessor is None else statement.predecessor.hex(),
        "signed_at": timestamp(datetime.fromtimestamp(statement.signed_at, UTC)),
    }


def _values(exc: AttestationError) -> dict[str, Any]:
    return {"step": exc.step, "values": dict(exc.values)}


def _print(value: dict[str, Any]) -> None:
    console = Console()
    appraisal = value["appraisal"]
    console.print(f"[green bold]accepted[/green bold], TCB status {appraisal['status']}")
    if value["mock"]:
        console.print("[yellow]mock evidence: this proves nothing about hardware[/yellow]")
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key in ("peer_id", "group_id", "network_id", "expires_at"):
        table.add_row(key, str(value[key]))
    held = value["cluster"]
    table.add_row("cluster", "none yet" if held is None else f"{held['id']}/{held['generation']}")
    confirmed = value["confirmed"]
    table.add_row(
        "confirmed",
        "the group document names no authority, or none was given"
        if confirmed is None
        else f"by the authority, number {confirmed['seq']}, {confirmed['signed_at']}",
    )
    for name, measurement in appraisal["measurements"].items():
        table.add_row(name, measurement)
    table.add_row("advisories", ", ".join(appraisal["advisory_ids"]) or "-")
    table.add_row("not checked", ", ".join(appraisal["not_checked"]) or "-")
    console.print(table)
    if "rtmr0" in appraisal["not_checked"]:
        console.print(f"[yellow]{RTMR0_WAIVED}[/yellow]", highlight=False)
