"""What a node needs of the machine that it runs on, checked before it starts: a directory, and open files."""

import os
import resource
from pathlib import Path
from typing import Final

from attestation import files
from attestation.files import FileError
from node.config import NodeConfig
from node.errors import ConfigError

PROBE_BYTES: Final = 4096
OTHER_FILES: Final = 512  # for bonds, their handshakes, storage and the interpreter


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
