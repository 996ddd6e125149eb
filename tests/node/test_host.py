"""How much memory a node may use: of its file, of a cgroup of either version, or of the machine."""

import msgspec
import pytest

from node.config import MemoryTable
from node.errors import ConfigError
from node.host import machine_memory, memory_budget
from node.raft.budget import Budget, needed_for
from tests.support import documents

GIB = 1 << 30


def system(root, total=8 * GIB, cgroup="0::/\n", **limits):
    """Make the files of a kernel; a name like ``sys/fs/cgroup/memory.max`` and its text."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal:       {total // 1024} kB\nMemFree: 1 kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in limits.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return root


def test_without_a_cgroup_the_machines_memory_counts(tmp_path):
    assert machine_memory(system(tmp_path)) == 8 * GIB


def test_the_smallest_limit_of_the_cgroup_and_those_above_it_counts(tmp_path):
    limits = {"memory.max": 4 * GIB, "a/memory.max": 2 * GIB, "a/b/memory.max": "max", "c/memory.max": 1}
    assert machine_memory(system(tmp_path, cgroup="0::/a/b\n", **limits)) == 2 * GIB


def test_a_container_that_sees_its_own_cgroup_at_the_top_is_limited_by_it(tmp_path):
    limits = {"memory.max": 3 * GIB}
    assert machine_memory(system(tmp_path, cgroup="0::/docker/abc\n", **limits)) == 3 * GIB


def test_a_cgroup_of_version_1_counts_too(tmp_path):
    limits = {"memory/memory.limit_in_bytes": 2**63 - 4096, "memory/pod/memory.limit_in_bytes": GIB}
    text = "12:cpu:/x\n4:memory:/pod\n0::/\n"
    assert machine_memory(system(tmp_path, cgroup=text, **limits)) == GIB


def test_a_system_without_these_files_needs_the_key(tmp_path):
    with pytest.raises(ConfigError, match=r"budget_bytes has no default here: .*meminfo"):
        machine_memory(tmp_path)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("nothing\n")
    with pytest.raises(ConfigError, match="no MemTotal"):
        machine_memory(tmp_path)


def budget(root, document, **memory):
    config = msgspec.structs.replace(documents.node_config(), memory=MemoryTable(**memory))
    return memory_budget(document, config, root=root)


def test_by_default_half_of_the_memory_may_be_used(tmp_path):
    assert budget(system(tmp_path), documents.document()) == Budget(4 * GIB)


def test_the_node_files_own_budget_counts_instead(tmp_path):
    assert budget(system(tmp_path), documents.document(), budget_bytes=2 * GIB) == Budget(2 * GIB)


def test_a_node_in_too_little_memory_names_both_numbers_and_what_to_change(tmp_path):
    document = documents.document()
    quota, least = document.settings.quota_bytes, needed_for(document.settings.quota_bytes)
    with pytest.raises(ConfigError) as refused:
        budget(system(tmp_path, total=GIB), document)
    text = str(refused.value)

    assert f"{GIB // 2} bytes (half of the {GIB} bytes of this machine or its cgroup)" in text
    assert f"store.quota_bytes = {quota}" in text
    assert f"needs {least} with its snapshots and log" in text
    smaller = int(text.partition("lower store.quota_bytes to ")[2].partition(" ")[0])
    assert needed_for(smaller) <= GIB // 2 < needed_for(smaller + 8)
    assert budget(tmp_path, document, budget_bytes=least) == Budget(least)
    with pytest.raises(ConfigError, match=r"\(\[memory\] budget_bytes\)"):
        budget(tmp_path, document, budget_bytes=least - 1)


def test_where_no_quota_would_fit_only_more_memory_helps(tmp_path):
    with pytest.raises(ConfigError) as refused:
        budget(system(tmp_path), documents.document(), budget_bytes=2 << 20)

    assert "lower store.quota_bytes" not in str(refused.value)


def test_three_nodes_of_bondstone_dev_fit_on_a_laptop_of_two_gigabytes():
    from node.dev import QUOTA_BYTES

    assert 3 * needed_for(QUOTA_BYTES) < GIB
