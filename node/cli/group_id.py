"""``bondstone group-id``."""

from pathlib import Path
from typing import Annotated

import typer

from node.cli.common import print_json
from node.config import load_config
from node.daemon import identify
from node.machines.loader import IMPORTABLE


def command(
    config: Annotated[Path, typer.Option(help="The node's configuration file.")],
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Print the GroupId that a configuration leads to; equal ids are the condition of a bond."""
    group = identify(load_config(config), IMPORTABLE)
    if as_json:
        print_json(
            {
                "group_id": group.group_id.hex(),
                "network_id": group.network_id.hex(),
                "validators": [
                    {"class": v.ticket_class, "signature": v.signature.hex(), "mock": v.mock}
                    for v in group.validators
                ],
            }
        )
    else:
        print(group.group_id.hex())
