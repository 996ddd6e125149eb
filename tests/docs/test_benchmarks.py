"""docs/benchmarks.md: each bench has its row, each command its options, and ``make bench`` runs what it lists."""

import re
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

from bench.__main__ import measurements
from bench.pysyncobj import require_pysyncobj

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "benchmarks.md").read_text()
ROWS = re.findall(r"^\| `python -m ([^`]+)` \|.*\| (yes|no) \|$", TEXT, re.MULTILINE)
COMMANDS = sorted(set(re.findall(r"python -m (bench\.[^`|&#\n]*[^`|&#\n ])", TEXT)))
WORKERS = {"bench.pysyncobj_node"}
needs_pysyncobj = pytest.mark.skipif(util.find_spec("pysyncobj") is None, reason="PySyncObj is missing")


def source(module: str) -> str:
    return (ROOT / f"{module.replace('.', '/')}.py").read_text()


def programs() -> set[str]:
    files = [f"bench.{path.stem}" for path in (ROOT / "bench").glob("*.py")]
    return {module for module in files if "__main__" in source(module)} - WORKERS - {"bench.__main__"}


def test_each_bench_has_a_row():
    assert {command.split()[0] for command, _ in ROWS} == programs()


def test_each_bench_is_listed_with_what_it_measures_and_its_options():
    listed = {command.split()[2]: (what, command) for what, command in measurements()}

    assert listed.keys() == programs()
    for module, (what, command) in listed.items():
        assert what.endswith("."), f"{module}: its first line is no sentence"
        for option in re.findall(r"--[a-z-]+", command):
            assert f'add_argument("{option}"' in source(module), f"{module} has no {option}"


def test_bench_lists_the_measurements():
    shown = subprocess.run(
        [sys.executable, "-m", "bench"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout.count("python -m bench.") == len(programs())


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_exists(command):
    module, *words = command.split()
    options = {word for word in words if word.startswith("--")}

    assert {option for option in options if f'add_argument("{option}"' not in source(module)} == set()


def test_make_bench_runs_the_benchmarks_of_the_table():
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.split("\nbench:")[1].split("\n\n")[0]
    run = re.findall(r"^\t@\$\(BIN\)/python -m (.+)$", recipe, re.MULTILINE)

    assert sorted(run) == sorted(command for command, made in ROWS if made == "yes")


@pytest.mark.parametrize(
    ("command", "shows"),
    [
        ("bench.day --puts 2000 --every 500", "rss_mb_last_quarter"),
        ("bench.memory --keys 2000", "peak_factor"),
        ("bench.snapshots --puts 1000 --rounds 1", "ratio_of_the_best"),
        ("bench.stalls --mib 1", "longest_cpu_ms"),
        pytest.param(
            "bench.join --keys 2000 --rate 100", "seconds_to_voter", marks=(pytest.mark.long, needs_pysyncobj)
        ),
    ],
)
def test_the_benches_of_snapshots_run_when_they_are_short_and_report(command, shows):
    run = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f'"{shows}"' in run.stdout


def test_the_numbers_have_a_place_and_the_page_is_listed():
    assert "(notes/benchmarks.md)" in TEXT
    assert "(docs/benchmarks.md)" in (ROOT / "README.md").read_text()


def test_the_bench_reports_a_missing_pysyncobj_and_prints_no_notice_otherwise(monkeypatch):
    if util.find_spec("pysyncobj") is not None:
        require_pysyncobj()
    monkeypatch.setitem(sys.modules, "pysyncobj", None)

    with pytest.raises(SystemExit, match=r"PySyncObj is missing\. hint: pip install"):
        require_pysyncobj()
