"""``bondstone group``: birth certificates, by which the authority confirms which cluster is the group.

And the recovery of a group by a survivor.
"""

import base64
import binascii
import getpass
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from attestation import files
from node.api import schemas
from node.authority import (
    Authority,
    AuthorityError,
    PrivateKey,
    load_private_key,
    new_private_key_pem,
    render_authority,
    spki_of,
)
from node.cli.confirmation import (
    certificate_to_sign,
    is_complete,
    require_one_cluster,
    signed,
    verified_untrusted,
)
from node.cli.connect import connect
from node.cli.output import CAUTION, print_json, say, say_lines
from node.client import submit_birth_certificate
from node.client.inputs import read_file
from node.client.verified_node import VerifiedNode, appraiser_of, verify_node
from node.errors import ConfigError
from node.group_document import GroupDocument, load_group_document
from node.raft.succession import Predecessor, recovery_statement
from node.raft.types import Position
from node.survivor import approve
from node.system.birth import (
    CERTIFICATE_BYTES_MAX,
    BirthCertificate,
    birth_certificate_untrusted,
    signatures_of,
)

KEY_FILE_BYTES_MAX: Final = 16 * 1024

app = typer.Typer()

Document = Annotated[Path, typer.Option("--group-document", help="The group document, with [authority].")]
Keys = Annotated[
    list[Path] | None, typer.Option("--key", help="PEM private key of the authority; repeat it.")
]
Certificate = Annotated[
    Path | None, typer.Option("--certificate", help="Where the certificate is kept; default: DOCUMENT.birth.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("authority-key")
def authority_key(
    out: Annotated[Path, typer.Option(help="Where to write the private key; must not exist.")],
    key_id: Annotated[str, typer.Option("--id", help="Its name in the group document.")] = "ops",
    as_json: Json = False,
) -> None:
    """Make an Ed25519 key for the authority, and print its entry for the group document.

    A holder of the key can confirm any cluster: keep it off the hosts, better in a token or encrypted.
    """
    key, pem = new_private_key_pem()
    try:
        files.create(out, pem)
    except files.FileError as exc:
        raise ConfigError(str(exc)) from exc
    if as_json:
        print_json({"key_file": str(out), "id": key_id, "key": spki_of(key)})
        return
    say_lines(render_authority(key_id, key))


@app.command()
def confirm(
    urls: Annotated[list[str], typer.Argument(help="The APIs of the founders, https://HOST:PORT.")],
    group_document: Document,
    key: Keys = None,
    certificate: Certificate = None,
    replace: Annotated[
        str | None,
        typer.Option(help="Id of the cluster that is lost for good and that this one replaces, hex."),
    ] = None,
    collateral: Annotated[
        Path | None, typer.Option(help="DCAP collateral; default: the stapled collateral.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify the founders' evidence, sign that their cluster is the group, and send them the certificate.

    With a threshold above one, the other signers sign the kept file with `bondstone group sign`, and the last
    one sends it with `bondstone group submit`.
    """
    document = load_group_document(group_document)
    authority = _authority_of(document)
    keys = [_private_key(path) for path in key or ()]
    kept_at = certificate or group_document.with_suffix(".birth")
    appraiser = appraiser_of(group_document=group_document, policy=None, trust_root=None, group_id=None)
    nodes = {url: verify_node(url, appraiser=appraiser, collateral=collateral) for url in urls}
    _require_founders(document, nodes)
    cluster = require_one_cluster([(url, node.cluster) for url, node in nodes.items()])
    made = signed(
        certificate_to_sign(
            _kept(kept_at),
            _served(nodes, authority, document),
            group_id=document.group_id,
            cluster=cluster,
            replace=replace,
            now_s=int(datetime.now(UTC).timestamp()),
        ),
        authority,
        keys,
    )
    complete = is_complete(made, authority, document.group_id)
    _keep(kept_at, made)
    if complete:
        url, node = next(iter(nodes.items()))
        submit_birth_certificate(url, certificate_der=node.live.certificate_der, certificate=made.encode())
    _report(made, authority, kept_at, complete=complete, as_json=as_json)


@app.command()
def sign(
    certificates: Annotated[
        list[Path], typer.Argument(help="Files with the same statement; the first is kept.")
    ],
    group_document: Document,
    key: Keys = None,
    as_json: Json = False,
) -> None:
    """Add signatures to a birth certificate, from private keys and from other copies of it."""
    document = load_group_document(group_document)
    authority = _authority_of(document)
    kept_at = certificates[0]
    parsed = [birth_certificate_untrusted(_read(path)) for path in certificates]
    made = signed(signatures_of(parsed), authority, [_private_key(path) for path in key or ()])
    complete = is_complete(made, authority, document.group_id)
    _keep(kept_at, made)
    _report(made, authority, kept_at, complete=complete, as_json=as_json)


@app.command()
def submit(
    url: Annotated[str, typer.Argument(help="The API of any member, https://HOST:PORT.")],
    group_document: Document,
    certificate: Certificate = None,
    collateral: Annotated[
        Path | None, typer.Option(help="DCAP collateral; default: the stapled collateral.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify a node, and send it a birth certificate that enough keys have signed."""
    document = load_group_document(group_document)
    authority = _authority_of(document)
    kept_at = certificate or group_document.with_suffix(".birth")
    made = verified_untrusted(_read(kept_at), authority, document.group_id)
    appraiser = appraiser_of(group_document=group_document, policy=None, trust_root=None, group_id=None)
    node = verify_node(url, appraiser=appraiser, collateral=collateral)
    cluster = require_one_cluster([(url, node.cluster)])
    made.verified(authority, group_id=document.group_id).require_cluster(cluster)
    submit_birth_certificate(url, certificate_der=node.live.certificate_der, certificate=made.encode())
    _report(made, authority, kept_at, complete=True, as_json=as_json)


@app.command()
def recover(
    from_survivor: Annotated[
        str, typer.Option("--from-survivor", help="The API of the living voter, https://HOST:PORT.")
    ],
    position: Annotated[
        str | None,
        typer.Option(help="Found the generation: TERM:INDEX:CHAIN, as this command printed it before."),
    ] = None,
    group_document: Annotated[
        Path | None,
        typer.Option("--group-document", help="With --key: the group document, with [authority]."),
    ] = None,
    key: Keys = None,
    token: Annotated[str | None, typer.Option("--token", help="Bearer token of an admin.")] = None,
    ca: Annotated[Path | None, typer.Option("--ca", help="The node's API certificate, PEM.")] = None,
    as_json: Json = False,
) -> None:
    """Let a survivor found a new generation, when the memory of the other voters is lost for good.

    Without --position this shows what the survivor holds, and changes nothing. What only the others held is
    lost. If they live after all, the new generation ends when it meets them, with all that was written to it.

    Exit code 0 shown, or founded; 1 refused; 2 usage; 3 not known.
    """
    with connect([from_survivor], token, ca) as client:
        survivor = client.survivor()
        if position is None:
            _show_survivor(survivor, as_json=as_json)
            return
        end = _log_end_of(position)
        approval = _approval(survivor, end, group_document, key or ())
        recovered = client.recover(end, approval)
        cluster = client.cluster
    if as_json:
        print_json(msgspec.to_builtins(recovered))
        return
    say(f"{survivor.member.name} leads cluster {cluster}, alone; its log goes on at {recovered.index}")
    say("start all other nodes again: they join it. Clients that know the former cluster refuse this one")


def _show_survivor(survivor: schemas.Survivor, *, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.to_builtins(survivor))
        return
    end = survivor.log_end
    covered = "never" if survivor.age_ms is None else f"{survivor.age_ms / 1000:.0f} s ago"
    say(f"{survivor.member.name} ({survivor.member.peer_id[:8]}): {survivor.quorum.message}")
    say(f"applied up to {survivor.applied_index}; it last covered what a leader had committed: {covered}")
    if not survivor.authorized:
        say(('the group document has no [recovery] authorize = "survivor": it cannot recover', CAUTION))
    if not survivor.votes:
        say(("it is no voter of its newest configuration: it cannot recover", CAUTION))
    if survivor.needs_approval:
        say("the group has an authority: give --group-document and --key")
    say(f"position: {end.term}:{end.index}:{end.chain}")


def _log_end_of(text: str) -> schemas.LogEnd:
    match text.split(":"):
        case [term, index, chain] if term.isdigit() and index.isdigit() and len(chain) == 64:
            return schemas.LogEnd(term=int(term), index=int(index), chain=chain)
    raise ConfigError("--position is TERM:INDEX:CHAIN, as the command prints it without --position")


def _approval(
    survivor: schemas.Survivor, end: schemas.LogEnd, document_path: Path | None, keys: Iterable[Path]
) -> bytes:
    """Return the authority's approval of exactly this recovery; empty if the group has no authority."""
    if not survivor.needs_approval:
        return b""
    if document_path is None:
        raise ConfigError("the group has an authority: give --group-document and --key")
    if survivor.cluster is None:
        raise ConfigError("the survivor is in no cluster")
    document = load_group_document(document_path)
    predecessor = Predecessor(
        cluster=bytes.fromhex(survivor.cluster.id),
        position=Position(end.term, end.index, bytes.fromhex(end.chain)),
        jump=0,  # not a part of the statement
        approval=b"",
    )
    statement = recovery_statement(document.group_id, predecessor, bytes.fromhex(survivor.member.peer_id))
    return approve(statement, _authority_of(document), [_private_key(path) for path in keys])


# ---- inside ---------------------------------------------------------------------------------------------
def _authority_of(document: GroupDocument) -> Authority:
    if document.authority is None:
        raise ConfigError(
            f"{document.where}: there is no [authority], so no cluster of this group can be confirmed."
            " hint: `bondstone group authority-key` makes a key, before the group is founded"
        )
    return document.authority


def _require_founders(document: GroupDocument, nodes: dict[str, VerifiedNode]) -> None:
    """Require as many different members as found the group, so that no copy of one node is confirmed."""
    wanted, given = max(document.founding.expect, 1), len({node.peer_id for node in nodes.values()})
    if given < wanted:
        raise ConfigError(
            f"the group is founded by {wanted} members, and these URLs lead to {given}: name all founders"
        )


def _served(
    nodes: dict[str, VerifiedNode], authority: Authority, document: GroupDocument
) -> BirthCertificate | None:
    """Return the newest certificate that the nodes return."""
    newest: BirthCertificate | None = None
    for url, node in nodes.items():
        text = node.live.document.birth_certificate
        if text is None:
            continue
        try:
            data = base64.b64decode(text, validate=True)
        except binascii.Error as exc:
            raise ConfigError(f"{url} sent a birth certificate that is not base64") from exc
        served = verified_untrusted(data, authority, document.group_id)
        if newest is None or served.statement.seq > newest.statement.seq:
            newest = served
    return newest


def _kept(path: Path) -> BirthCertificate | None:
    try:
        return birth_certificate_untrusted(files.read_bytes(path, bytes_max=CERTIFICATE_BYTES_MAX))
    except files.FileError as exc:
        if exc.absent:
            return None
        raise ConfigError(str(exc)) from exc


def _read(path: Path) -> bytes:
    return read_file(path, what="birth certificate", bytes_max=CERTIFICATE_BYTES_MAX)


def _keep(path: Path, certificate: BirthCertificate) -> None:
    try:
        files.replace(path, certificate.encode())
    except files.FileError as exc:
        raise ConfigError(str(exc)) from exc


def _private_key(path: Path) -> PrivateKey:
    """Read a PEM key; an encrypted one asks for its passphrase."""
    try:
        pem = files.read_bytes(path, bytes_max=KEY_FILE_BYTES_MAX, secret=True)
    except files.FileError as exc:
        raise ConfigError(str(exc)) from exc
    try:
        return load_private_key(pem, _passphrase(path) if b"ENCRYPTED" in pem else None)
    except AuthorityError as exc:
        raise ConfigError(f"{path}: {exc.message}") from exc


def _passphrase(path: Path) -> bytes:
    return getpass.getpass(f"passphrase of {path}: ").encode()


def _report(
    certificate: BirthCertificate, authority: Authority, kept_at: Path, *, complete: bool, as_json: bool
) -> None:
    statement = certificate.statement
    by = [kid for kid, _ in certificate.signatures]
    if as_json:
        print_json(
            {
                "complete": complete,
                "group_id": statement.group_id,
                "cluster": str(statement.cluster),
                "seq": statement.seq,
                "predecessor": statement.predecessor,
                "signed_at": datetime.fromtimestamp(statement.signed_at, UTC)
                .isoformat()
                .replace("+00:00", "Z"),
                "signed_by": by,
                "certificate": str(kept_at),
            }
        )
        return
    if complete:
        say(
            f"confirmed: cluster {statement.cluster} is the group (number {statement.seq}, kept in {kept_at})"
        )
        return
    say(
        f"{len(by)} of {authority.threshold} signatures are in {kept_at}."
        f" hint: `bondstone group sign {kept_at}` with the other keys, then `bondstone group submit`"
    )
