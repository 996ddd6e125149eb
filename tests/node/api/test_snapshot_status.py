"""What a node shows of snapshots: the one it holds, and how far one is that it fetches."""

from node.api import schemas
from node.api.service import GroupView
from node.api.views import group_response
from node.cli import status as command
from node.raft.types import Bootstrap
from tests.node.raft.cluster import GROUP
from tests.node.raft.test_snapshots import chunk_in, pruned


def shown(member):
    return group_response(
        GroupView(
            network_id=bytes(32), group_id=GROUP, cluster=None, state_machine="m", status=member.status(),
            key_use=member.replica.table.key_use(), outlook=member.outlook(), memory=member.memory(),
            quota_bytes=member.settings.quota_bytes,
        ),
        mock=False,
    )  # fmt: skip


def test_a_member_shows_the_snapshot_it_holds_and_where_its_log_begins():
    member = pruned().nodes["a"]
    group = shown(member)

    assert group.snapshot == schemas.Snapshot(index=member.log.base.index, bytes=group.snapshot.bytes)
    assert group.log_first_index == member.log.base.index + 1
    assert group.log_bytes == member.log.size
    assert group.install is None


def test_a_member_that_fetches_the_state_shows_how_far_it_is(capsys):
    cluster = pruned()
    cluster.drop = lambda sender, to, message: chunk_in(message) > 3
    member = cluster.add("d", Bootstrap.JOIN)
    cluster.run_until(lambda: member.tenure.installing and member.tenure.installing.progress.done == 4)
    group = shown(member)

    assert (group.install.chunks, group.install.sources) == (4, 3)
    assert group.install.of_chunks > 4
    assert group.snapshot is None
    command._print(group, schemas.Members(members=[]), schemas.Bonds(bonds=[], mock=False))
    assert f"state from 3 members: 4 of {group.install.of_chunks} chunks" in capsys.readouterr().out
