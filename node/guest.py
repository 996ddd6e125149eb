"""What a guest of an image accepts from its host: both files of a node, judged as the node judges them, and
by the rules of the image. ``bondstone image config`` refuses, by the same rules, what the guest would refuse.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from enclave.image.config import NODE_FILE, GuestConfig, Profile
from node.config import NodeConfig, NodeFiles, check_together, parse_config
from node.errors import ConfigError
from node.group_document import GroupDocument, parse_group_document_untrusted
from node.machines.loader import Machines, require_loadable

FILES: Final = Path("/run/bondstone/config")
"""Where a guest's PID 1 puts the files of its configuration."""


def files_of_guest(config: GuestConfig, *, profile: Profile, machines: Machines) -> NodeFiles:
    """Return both files of the node that this configuration is for, before any guest starts with it.

    Raises:
        ConfigError: the node would refuse it, or it lacks a file that it names; names the file and the key.
    """
    node = parse_config(config.files[NODE_FILE].encode(), where=NODE_FILE, base=FILES)
    for key, name in _named(node):
        if _inside(name) not in config.files:
            raise ConfigError(
                f"{NODE_FILE}: [{key}] names {_inside(name)}, which is not among the configuration's files"
            )
    named = _inside(node.group.document)
    document = parse_group_document_untrusted(config.files[named].encode(), where=named)
    check_together(document, node, where=NODE_FILE)
    require_for_image(document, profile=profile, machines=machines)
    return NodeFiles(document=document, config=node)


def require_for_image(document: GroupDocument, *, profile: Profile, machines: Machines) -> None:
    """Raise unless a guest of an image with this profile may run with this document.

    Raises:
        ConfigError: it names the file and the key.
    """
    if document.root.mock and not profile.has_mock:
        raise ConfigError(
            f"{document.where}: [trust] root is a mock authority's, which can make any quote: "
            "a production image accepts only the root intel"
        )
    require_loadable(document.state_machine, machines)


def _named(node: NodeConfig) -> Iterator[tuple[str, str]]:
    """Yield the keys by which a node file names other files, with their absolute names."""
    attestation = node.attestation
    yield "group.document", node.group.document
    for key, name in (
        ("group.key_file", node.group.key_file),
        ("attestation.jwt.token_file", None if attestation.jwt is None else attestation.jwt.token_file),
        ("attestation.collateral.file", attestation.collateral.file),
        ("attestation.collateral.tls_ca", attestation.collateral.tls_ca),
    ):
        if name is not None:
            yield key, name


def _inside(name: str) -> str:
    """Return the name as a configuration writes it, from an absolute one."""
    return name.removeprefix(f"{FILES}/")
