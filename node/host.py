"""What a node needs of the machine that it runs on, checked before it starts: a directory, files, memory."""

import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attestation import files
from attestation.files import FileError
from node.config import NodeConfig
from node.errors import ConfigError
from node.group_document import GroupDocument
from node.raft.budget import Budget, needed_for, quota_within

PROBE_BYTES: Final = 4096
OTHER_FILES: Final = 512  # for bonds, their handshakes, storage and the interpreter
# The budget is this part of the memory. The rest is for the interpreter, for requests and handshakes, which
# have bounds of their own, and for what the allocator loses.
MEMORY_PARTS: Final = 2
KERNEL_FILE_BYTES_MAX: Final = 64 * 1024
_MEM_TOTAL: Final = re.compile(r"^MemTotal: +([0-9]+) kB$", re.MULTILINE)


def make_data_directory(config: NodeConfig) -> None:
    """Make the directory that the node writes to, and check that the node can write there.

    Raises:
        ConfigError: the node cannot, for example because the disk is full.
    """
    directory = Path(config.node.data_dir)
    probe = directory / f".write-probe-{os.getpid()}"
    try:
        files.make_directory(directory)
        files.replace(probe, b"\0" * PROBE_BYTES)
        files.remove(probe)
    except FileError as exc:
        raise ConfigError(f"node.data_dir: {exc}") from exc


def allow_open_files(config: NodeConfig) -> None:
    """Let the process open all files that its limits require: strangers must not use up those of the bonds.

    Raises:
        ConfigError: the system does not permit it.
    """
    needed = config.api.connections_max + 2 * config.api.handshakes_max + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    enough = hard == resource.RLIM_INFINITY or hard >= needed
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard if enough else needed))
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"[api] connections_max = {config.api.connections_max} needs {needed} open files,"
            f" and the process may have {hard}: raise that (LimitNOFILE=, ulimit -Hn), or lower the key"
        ) from exc


def memory_budget(document: GroupDocument, config: NodeConfig, *, root: Path = Path("/")) -> Budget:
    """Return how much memory the node's part of the group may take.

    Args:
        document: the group's, with the quota of the store.
        config: the node's.
        root: below it are ``proc`` and ``sys``.

    Raises:
        ConfigError: that is too little for a store as large as its quota.
    """
    memory = machine_memory(root)
    size = memory // MEMORY_PARTS if config.memory.budget_bytes is None else config.memory.budget_bytes
    quota = document.settings.quota_bytes
    needed = needed_for(quota)
    if size >= needed:
        return Budget(size)
    whence = (
        f"half of the {memory} bytes of this machine or its cgroup"
        if config.memory.budget_bytes is None
        else "[memory] budget_bytes"
    )
    smaller = quota_within(size)
    lower = f", or lower store.quota_bytes to {smaller} or less" if smaller > 0 else ""
    raise ConfigError(
        f"the memory budget of this node is {size} bytes ({whence}), and a store of"
        f" store.quota_bytes = {quota} ({document.where}) needs {needed} with its snapshots and log:"
        f" give the node more memory, or raise [memory] budget_bytes{lower}"
    )


def machine_memory(root: Path = Path("/")) -> int:
    """Return how many bytes of memory the process may use: the machine's, or less if a cgroup limits it.

    Raises:
        ConfigError: the system does not show it.
    """
    try:
        found = _MEM_TOTAL.search(_kernel_text(root / "proc/meminfo"))
    except FileError as exc:
        raise ConfigError(f"[memory] budget_bytes has no default here: {exc}") from exc
    if found is None:
        raise ConfigError("[memory] budget_bytes has no default here: /proc/meminfo has no MemTotal")
    return min([int(found[1]) * 1024, *_cgroup_limits(root)])


def _cgroup_limits(root: Path) -> Iterator[int]:
    """Yield the limits of the process' cgroup and those above it, of both versions of cgroups."""
    for line in _text_if_there(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        below = base / path.lstrip("/")
        # In a container the path may be the host's: what is mounted is then the process' own cgroup.
        for directory in (below, *below.parents):
            limit = _text_if_there(directory / name).strip()
            if limit.isdecimal():
                yield int(limit)
            if directory == base:
                break


def _text_if_there(path: Path) -> str:
    try:
        return _kernel_text(path)
    except FileError:
        return ""


def _kernel_text(path: Path) -> str:
    return files.read_text(path, bytes_max=KERNEL_FILE_BYTES_MAX)
