"""A state machine from outside of any image is allowed outside of images, and is never taken for a measured one."""

import asyncio

import pytest

from enclave.errors import NotATrustDomainError
from node.config import load_node
from node.daemon import running
from node.machines.loader import IMPORTABLE, Machines
from node.process_events import MachineNotMeasured
from tests.support import documents

IMPORTED = "node.machines.counter:Counter"
TDX = documents.NODE.partition("[attestation]")[0] + '[attestation]\nmode = "tdx"\n'


def told(folder, machine, machines):
    """What a node reports that is to run in a TD, on a machine that is none."""
    (folder / "node.toml").write_text(TDX)
    (folder / "group.toml").write_text(
        documents.MINIMAL.replace("[policy.tcb]", f'state_machine = "{machine}"\n[policy.tcb]')
    )
    files = load_node(folder / "node.toml")
    heard = []

    async def run():
        async with running(files.document, files.config, heard.append, machines):
            pass

    with pytest.raises(NotATrustDomainError):
        asyncio.run(run())
    return heard


def test_a_node_in_a_td_reports_that_its_imported_machine_is_not_measured(tmp_path):
    (event,) = told(tmp_path, IMPORTED, IMPORTABLE)

    assert (type(event), event.state_machine) == (MachineNotMeasured, IMPORTED)
    assert "no quote shows" in event.message


@pytest.mark.parametrize(
    ("machine", "machines"), [("kv", IMPORTABLE), (IMPORTED, Machines(named=frozenset({IMPORTED})))]
)
def test_a_machine_of_bondstone_or_of_the_image_is_measured(tmp_path, machine, machines):
    assert told(tmp_path, machine, machines) == []
