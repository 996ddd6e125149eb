"""``bondstone provision``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from node.cli.output import print_json, say
from node.client import provision_group_key
from node.client.inputs import read_file
from node.client.verified_node import appraiser_of, verify_node
from node.group.identity import GroupKey, require_key
from node.group_document import load_group_document


def command(
    url: Annotated[str, typer.Argument(help="The waiting node's API, https://HOST:PORT.")],
    group_key: Annotated[Path, typer.Option(help="File with the group key: 64 hex digits.")],
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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Verify a node's fresh evidence, then send it the group key over a channel with the verified TLS key."""
    key = GroupKey.from_hex(read_file(group_key, what="group key", secret=True).decode("ascii", "replace"))
    if group_document is not None:  # never send another group's key, not even to a verified node
        require_key(load_group_document(group_document), key, source=str(group_key))
    appraiser = appraiser_of(
        group_document=group_document, policy=policy, trust_root=trust_root, group_id=None
    )
    # A node that waits for its key is in no group yet.
    node = verify_node(url, appraiser=replace(appraiser, group_id=None), collateral=collateral)
    group_id = provision_group_key(url, certificate_der=node.live.certificate_der, group_key=key.secret)
    if as_json:
        print_json({"provisioned": True, "peer_id": node.peer_id.hex(), "group_id": group_id.hex()})
    else:
        say(f"provisioned {node.peer_id.hex()}; it joins group {group_id.hex()}")
