"""A real trust_disk node that is killed at any moment comes back with its state, from files that do not grow."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.node.group.durable_worker import SEGMENT_BYTES, SETTINGS, STATE_BYTES

PROJECT = Path(__file__).parents[3]
# A segment that is being left, one that is being filled, what follows the base until the next snapshot is
# durable, two snapshots, and the key.
BYTES_MAX = 2 * SEGMENT_BYTES + 4 * max(SETTINGS.snapshot_bytes, STATE_BYTES) + 3 * STATE_BYTES
BATCH = 20


def killed_after(directory: Path, lines: int) -> list[list[int]]:
    """Let a node write until it has printed as many lines; kill it. Return the numbers of every line."""
    command = [sys.executable, "-m", "tests.node.group.durable_worker", str(directory)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = []
        for line in process.stdout:
            found.append([int(number) for number in line.split()])
            if len(found) == lines:
                break
        process.kill()
        # It may have gone on until then, and its last line may be cut off.
        found += [[int(number) for number in line.split()] for line in process.stdout if line.endswith("\n")]
    assert len(found) >= lines, "it ended by itself"
    return found


def test_a_node_that_is_killed_comes_back_with_its_state_and_its_directory_does_not_grow(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "disk"
    acknowledged, most = 0, 0
    for lines in (50, 1, 30, 20):
        found = killed_after(directory, lines)
        # What was acknowledged is there; of the batch under way when it was killed, any part may be.
        assert acknowledged <= found[0][0] <= acknowledged + BATCH
        acknowledged = found[-1][0]
        most = max([most, *(used for _, _, used in found)])
    assert found[0][1] > 1000  # the start took a snapshot, and not the log from its genesis
    assert acknowledged > 1500
    assert most < BYTES_MAX
    snapshots = [path for path in directory.glob("log.snapshot.*") if path.suffix != ".new"]
    assert 1 <= len(snapshots) <= 2


@pytest.mark.parametrize("damage", ["cut", "absent"])
def test_a_node_whose_snapshot_is_damaged_does_not_start_and_founds_nothing(
    tmp_path: Path, damage: str
) -> None:
    directory = tmp_path / "disk"
    killed_after(directory, 40)
    for snapshot in directory.glob("log.snapshot.*"):
        if damage == "cut":
            snapshot.write_bytes(snapshot.read_bytes()[:-1])
        else:
            snapshot.unlink()
    command = [sys.executable, "-m", "tests.node.group.durable_worker", str(directory)]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode != 0
    assert ended.stdout == ""
    assert ("(snapshot-torn)" if damage == "cut" else "(snapshot-missing)") in ended.stderr.splitlines()[-1]
