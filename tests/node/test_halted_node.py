"""A node that has stopped for good reports that: it leads no group, and nothing that it is given is in doubt."""

import asyncio
import logging

import pytest
import uvloop

from node.api.service import UnavailableError
from node.raft.types import Consistency, Role
from tests.node.test_provisioning import PATIENCE_S, waiting


def test_a_halted_node_leads_no_group_and_takes_nothing(tmp_path, caplog):
    async def scenario() -> None:
        async with waiting(tmp_path) as node:
            await node.send(node.key.secret)
            daemon = node.daemon
            async with asyncio.timeout(PATIENCE_S):
                while not daemon.readiness().ready:
                    await asyncio.sleep(0.02)
            assert daemon.group().status.role is Role.LEADER

            daemon.joined._driver._halt("log-divergence")
            view = daemon.group()
            assert (view.status.role, view.status.leader, view.status.online) == (Role.FOLLOWER, None, False)
            assert "log-divergence" in view.status.halted
            assert daemon.readiness().reason == "halted"
            command = {"op": "put", "key": "a", "value": "1"}
            with pytest.raises(UnavailableError) as refused:
                await daemon.execute((command,), credential=b"c", key=None, feed=False, timeout_s=1)
            assert refused.value.reason == "halted"
            with pytest.raises(UnavailableError):
                await daemon.query(
                    {"op": "get", "key": "a"},
                    credential=b"c",
                    consistency=Consistency.STRONG,
                    min_at=None,
                    max_age_ms=None,
                    timeout_s=1,
                )

    with caplog.at_level(logging.ERROR):
        uvloop.run(scenario())
    assert "this member has stopped for good: log-divergence" in caplog.text
