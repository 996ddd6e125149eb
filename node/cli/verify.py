"""``bondstone verify``."""

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation import files
from attestation.collateral.enforcement import EnforcedSince
from attestation.errors import AttestationError
from attestation.files import FileError
from attestation.policy.appraise import UNKNOWN_ENFORCEMENT
from attestation.values import timestamp
from node.cli.exits import exit_code_of, word_of
from node.cli.inputs import parse_time
from node.cli.output import BAD, CAUTION, GOOD, pairs, print_json, say, say_unchecked
from node.client import AnswerInvalidError, ClientError, RefusedError
from node.client.verified_node import (
    VerifiedNode,
    appraiser_of,
    pin_cluster,
    require_cluster,
    require_confirmed,
    require_group_ca,
    verify_node,
)
from node.environment import read_environment
from node.errors import ConfigError
from node.system.birth import ConfirmedCluster

NO_COLLATERAL: Final = frozenset({"collateral-missing", "endorsements-missing"})


def command(
    url: Annotated[str, typer.Argument(help="The node's API, https://HOST:PORT.")],
    group_document: Annotated[
        Path | None, typer.Option(help="Group document: gives policy, root, GroupId and MRCONFIGID.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Appraisal policy, TOML; default: the document's.")
    ] = None,
    trust_root: Annotated[
        str | None, typer.Option(help="`intel`, or the file of another root; default: the document's.")
    ] = None,
    collateral: Annotated[
        Path | None, typer.Option(help="DCAP collateral; default: the stapled collateral.")
    ] = None,
    group_id: Annotated[str | None, typer.Option(help="The group that the node must be in, hex.")] = None,
    cluster: Annotated[
        str | None, typer.Option(help="The cluster that the node must be in, ID/GENERATION or ID, hex.")
    ] = None,
    pins: Annotated[
        Path | None,
        typer.Option(help="File of verified clusters; default: one in ~/.local/state, without mock ones."),
    ] = None,
    forget_pin: Annotated[
        bool, typer.Option("--forget-pin", help="Forget earlier verifications of this group.")
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option(help="Directory for the verified certificate and client.json, for `kv` and others."),
    ] = None,
    save_ca: Annotated[
        Path | None, typer.Option(help="File for the certificate of the group's own authority.")
    ] = None,
    enforced_since: Annotated[
        str | None, typer.Option(help="Since when the collateral is enforced, for a grace period.")
    ] = None,
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
        node = verify_node(
            url,
            appraiser=appraiser,
            collateral=collateral,
            enforcement=(
                UNKNOWN_ENFORCEMENT if enforced_since is None else EnforcedSince(parse_time(enforced_since))
            ),
        )
        if cluster is not None:
            require_cluster(node, cluster)
        confirmed = None if appraiser.authority is None else require_confirmed(node, appraiser.authority)
        group_ca = None if save_ca is None else (save_ca, require_group_ca(node))
        pin_cluster(node, confirmed, pins=pins or read_environment().pins, forget=forget_pin)
    except (AttestationError, ClientError) as exc:
        code = exit_code_of(exc)
        _print_failure(exc, word_of(code), as_json=as_json)
        raise typer.Exit(code) from exc
    value = node.to_json_value() | {"confirmed": _confirmed_value(confirmed)}
    value |= _saved(save, group_ca, url, node)
    print_json(value) if as_json else _print(value)


def _print_failure(exc: AttestationError | ClientError, word: str, *, as_json: bool) -> None:
    if isinstance(exc, AttestationError):
        reason, message = exc.reason, exc.message
        more: dict[str, Any] = {"step": exc.step, "values": dict(exc.values)}
    else:
        reason, message, more = _reason_of(exc), str(exc), {}
    if as_json:
        print_json({"accepted": False, "verdict": word, "reason": reason, "message": message, **more})
        return
    say((word, BAD), f": {message} ({reason})", error=True)
    if reason in NO_COLLATERAL:
        say("hint: bondstone collateral fetch … -o collateral.json, then --collateral FILE", error=True)


def _reason_of(exc: ClientError) -> str:
    match exc:
        case RefusedError():
            return exc.code
        case AnswerInvalidError():
            return "answer-invalid"
        case _:
            return "unreachable"


def _saved(
    directory: Path | None, group_ca: tuple[Path, bytes] | None, url: str, node: VerifiedNode
) -> dict[str, str]:
    """Write what the user asks to keep of a verified node; return where it is."""
    saved = {} if directory is None else {"saved": str(_save(directory, url, node))}
    if group_ca is not None:
        saved["saved_ca"] = str(_save_ca(*group_ca))
    return saved


def _save(directory: Path, url: str, node: VerifiedNode) -> Path:
    """Write the verified certificate, and the settings by which other commands find and trust this node."""
    certificate = x509.load_der_x509_certificate(node.live.certificate_der)
    ca, settings = directory / "api-ca.pem", directory / "client.json"
    try:
        files.make_directory(directory)
        files.replace(ca, certificate.public_bytes(Encoding.PEM))
        cluster = None if node.cluster is None else str(node.cluster)
        saved = {"urls": [url], "ca": str(ca.resolve()), "cluster": cluster}
        files.replace(settings, json.dumps(saved, indent=2).encode() + b"\n")
    except FileError as exc:
        raise ConfigError(f"--save: {exc}") from exc
    return settings


def _save_ca(path: Path, pem: bytes) -> Path:
    try:
        files.replace(path, pem)
    except FileError as exc:
        raise ConfigError(f"--save-ca: {exc}") from exc
    return path.resolve()


def _confirmed_value(confirmed: ConfirmedCluster | None) -> dict[str, Any] | None:
    if confirmed is None:
        return None
    statement = confirmed.statement
    return {
        "seq": statement.seq,
        "predecessor": None if statement.predecessor is None else statement.predecessor.hex(),
        "signed_at": timestamp(datetime.fromtimestamp(statement.signed_at, UTC)),
    }


def _print(value: dict[str, Any]) -> None:
    appraisal = value["appraisal"]
    say(("accepted", GOOD), f", TCB status {appraisal['status']}")
    if value["mock"]:
        say(("mock evidence: this proves nothing about hardware", CAUTION))
    held = value["cluster"]
    confirmed = value["confirmed"]
    said = (
        "the group document names no authority, or none was given"
        if confirmed is None
        else f"by the authority, number {confirmed['seq']}, {confirmed['signed_at']}"
    )
    pairs(
        [
            *((key, str(value[key])) for key in ("peer_id", "group_id", "network_id", "expires_at")),
            ("cluster", "none yet" if held is None else f"{held['id']}/{held['generation']}"),
            ("confirmed", said),
            ("group CA", value["group_ca"] or "none"),
            *appraisal["measurements"].items(),
            ("advisories", ", ".join(appraisal["advisory_ids"]) or "-"),
            ("not checked", ", ".join(appraisal["not_checked"]) or "-"),
        ]
    )
    say_unchecked(appraisal["not_checked"])
    if "saved" in value:
        say(f"to use the verified node: export BONDSTONE_CLUSTER={shlex.quote(value['saved'])}")
    if "saved_ca" in value:
        say(f"to trust every member of the group: {shlex.quote(value['saved_ca'])}")
