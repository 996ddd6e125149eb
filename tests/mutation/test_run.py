"""A run that is stopped, by whatever signal, leaves no process and no copy behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mutation.run import ROOT

DEADLINE_S = 120


def working_directories(below: Path) -> list[Path]:
    """Return the working directories, of all processes, that are inside this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            at = (entry / "cwd").readlink()
        except OSError:
            continue  # it has ended, or is another user's
        if at.is_relative_to(below):
            found.append(at)
    return found


def wait_until(condition: Callable[[], bool]) -> bool:
    """Return whether it became true before the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_judging(below: Path) -> bool:
    """Return whether a mutant's tests run in a worker's copy, which is named by its process."""
    return any(at.name.isdigit() for at in working_directories(below))


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    base, output = tmp_path / "base", tmp_path / "output"
    base.mkdir()
    with output.open("wb") as printed:
        run = subprocess.Popen(
            [sys.executable, "-m", "tests.mutation", "--quick", "--jobs", "2", "pck"],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(base)},
            stdout=printed,
            stderr=printed,
        )
    try:
        assert wait_until(lambda: is_judging(base) or run.poll() is not None)
        assert run.poll() is None, output.read_text()
        run.send_signal(number)
        run.wait(DEADLINE_S)

        assert wait_until(lambda: working_directories(base) == [])
        assert wait_until(lambda: list(base.iterdir()) == [])
    finally:
        run.kill()
        run.wait()
