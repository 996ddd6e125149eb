"""No line of a page is wider than 110 columns, so that a change of one sentence is a change of one line.

Tables, code and addresses are as wide as they must be. ``make check`` runs this; it prints each line that is too wide.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[2]
COLUMNS_MAX: Final = 110


def wide_lines(text: str) -> Iterator[tuple[int, int]]:
    """Yield the number and the width in characters of each line that is too wide."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if fence:
            fence = "" if stripped == fence else fence
        elif stripped.startswith(("```", "~~~")):
            fence = stripped[:3]
        elif len(line) > COLUMNS_MAX and not _may_be_wide(stripped):
            yield number, len(line)


def _may_be_wide(line: str) -> bool:
    return line.startswith("|") or any(
        "://" in word and len(word) > COLUMNS_MAX // 2 for word in line.split()
    )


def pages() -> list[Path]:
    """Return every page under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "*.md"], cwd=PROJECT, check=True, capture_output=True, text=True
    )
    return [PROJECT / name for name in listed.stdout.split("\0") if name]


def main() -> int:
    """Print what is too wide; return 1 if there is any."""
    found = [
        f"{page.relative_to(PROJECT)}:{number}: {width} columns, at most {COLUMNS_MAX}: begin a new line after a clause"
        for page in pages()
        for number, width in wide_lines(page.read_text())
    ]
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
