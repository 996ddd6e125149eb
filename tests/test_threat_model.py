"""docs/threat-model.md: a row for everything that the host feeds, and every test that it names exists."""

import re
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs" / "threat-model.md"
COLUMNS = ["from the host", "measured", "judged by", "what a hostile one gets", "shown by"]
FED = {
    "firmware", "kernel", "command line", "initrd", "ACPI tables", "group document", "node file", "DHCP", "DNS",
    "time", "entropy", "disks", "serial line", "collateral", "memory size", "processors",
}  # fmt: skip
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == COLUMNS
    return cells[2:]


def test_everything_that_the_host_feeds_has_a_row() -> None:
    named = " / ".join(row[0] for row in rows())

    assert [what for what in sorted(FED) if what not in named] == []


def test_every_row_names_who_measures_or_judges_the_rest_and_the_test_that_shows_it() -> None:
    for row in rows():
        assert len(row) == len(COLUMNS), row
        assert all(row), row
        assert _TEST.search(row[-1]), row


def test_every_test_that_the_page_names_exists() -> None:
    named = _TEST.findall(PAGE.read_text())
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"^\s*(?:async )?def {name}\(", (PROJECT / file).read_text(), re.MULTILINE)
    ]

    assert len(named) >= len(rows())
    assert missing == []
