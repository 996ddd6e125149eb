"""The mock TD of a configuration. Production images are built without this module and what it imports."""

from pathlib import Path

from attestation.ticket_endorsements import EndorsementsSource
from attestation.trust import TrustRoot
from enclave.attester import Attester
from enclave.mock.authority import MockAuthority
from enclave.mock.td import TDSettings
from node.config import MockTable


def attester(table: MockTable) -> Attester:
    """Return the mock TD that the table describes."""
    return _authority(table).create_td(
        settings=TDSettings(
            mrtd=bytes.fromhex(table.mrtd),
            rtmrs=(
                bytes.fromhex(table.rtmr0),
                bytes.fromhex(table.rtmr1),
                bytes.fromhex(table.rtmr2),
                bytes.fromhex(table.rtmr3),
            ),
            td_attributes=int.from_bytes(bytes.fromhex(table.attributes), "little"),
            mr_config_id=bytes.fromhex(table.mrconfigid),
        )
    )


def trust_root(table: MockTable) -> TrustRoot:
    """Return the root of the mock authority that the table names."""
    return _authority(table).trust_root


def endorsements_source(table: MockTable) -> EndorsementsSource:
    """Return the mock authority as the source of endorsements for its own platforms."""
    return _authority(table)


def _authority(table: MockTable) -> MockAuthority:
    return MockAuthority.load(Path(table.authority))
