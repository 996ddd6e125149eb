"""The check of the pages' width finds a wide line, and only one that need not be wide."""

import pytest

from tests.docs.layout import COLUMNS_MAX, pages, wide_lines

WIDE = "word " * 23


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (WIDE, [1]),
        ("x" * COLUMNS_MAX, []),
        ("x" * (COLUMNS_MAX + 1), [1]),
        (f"short\n\n- {WIDE}", [3]),
        (f"```sh\n{WIDE}\n```\n{WIDE}", [4]),
        (f"| {WIDE} |", []),
        (f"see https://example.com/{'x' * 100}", []),
    ],
)
def test_a_line_is_too_wide_unless_it_is_code_a_table_or_an_address(text, lines):
    assert [number for number, _ in wide_lines(text)] == lines


def test_the_pages_are_those_under_version_control():
    names = {page.name for page in pages()}

    assert {"README.md", "CONTRIBUTING.md", "DESIGN.md", "glossary.md"} <= names
