"""The mock TD of a configuration. Production images are built without this module and what it imports."""

from pathlib import Path

from attestation.tickets.store import EndorsementsSource
from enclave.attester import Attester
from enclave.mock.authority import MockAuthority
from enclave.mock.td import TDSettings
from node.config import MockTable
from node.errors import ConfigError
from node.group_document import GroupDocument


def attester(table: MockTable, document: GroupDocument) -> Attester:
    """Return the mock TD that the table describes, started with this group document.

    Raises:
        ConfigError: the mock authority's root is not the group's.
    """
    authority = _authority(table)
    if authority.trust_root != document.root:
        raise ConfigError(
            f"[attestation.mock] authority: {table.authority} is not below the root that {document.where} "
            "names in [trust] root"
        )
    return authority.create_td(
        settings=TDSettings(
            mrtd=bytes.fromhex(table.mrtd),
            rtmrs=(
                bytes.fromhex(table.rtmr0),
                bytes.fromhex(table.rtmr1),
                bytes.fromhex(table.rtmr2),
                bytes.fromhex(table.rtmr3),
            ),
            td_attributes=int.from_bytes(bytes.fromhex(table.attributes), "little"),
            mr_config_id=document.mrconfigid if table.mrconfigid is None else bytes.fromhex(table.mrconfigid),
        )
    )


def endorsements_source(table: MockTable) -> EndorsementsSource:
    """Return the mock authority as the source of endorsements for its own platforms."""
    return _authority(table)


def _authority(table: MockTable) -> MockAuthority:
    return MockAuthority.load(Path(table.authority))
