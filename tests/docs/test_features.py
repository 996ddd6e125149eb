"""The table of docs/features.md names everything that this release writes, sends and keeps."""

import re
from pathlib import Path

from attestation.encoding.fields import ROW_ITEMS_MAX
from node.bonds.wire.messages import _DECODE as BOND_DECODERS
from node.bonds.wire.messages import IGNORABLE_TAG as BOND_IGNORABLE
from node.features import HIGHEST, LOWEST
from node.raft.entries import ENTRY_LEVELS
from node.raft.types import EntryKind
from node.raft.wire import _CODECS_BY_TAG as CODECS
from node.raft.wire import IGNORABLE_TAG
from node.storage.format import RecordKind

PAGE = (Path(__file__).parents[2] / "docs" / "features.md").read_text()


def numbers(text: str) -> set[int]:
    """Return what ``1 to 5, 16`` names."""
    found: set[int] = set()
    for part in text.split(","):
        ends = [int(end) for end in re.findall(r"\d+", part)]
        found |= set(range(ends[0], ends[-1] + 1))
    return found


def test_the_table_of_levels_is_what_the_code_does() -> None:
    rows = re.findall(r"^\| (\d+) \|(.*?)\|(.*?)\|(.*?)\|(.*?)\|$", PAGE, re.MULTILINE)
    assert [int(level) for level, *_ in rows] == list(range(LOWEST, HIGHEST + 1))
    named = {
        EntryKind[name]: (int(number), int(level))
        for level, entries, *_ in rows
        for name, number in re.findall(r"([A-Z]+) (\d+)", entries)
    }

    assert named == {kind: (int(kind), level) for kind, level in ENTRY_LEVELS.items()}
    messages, bond_messages, records = (
        ",".join(filter(str.strip, column)) for column in list(zip(*rows, strict=True))[2:]
    )
    assert numbers(messages) == set(CODECS)
    assert numbers(bond_messages) == set(BOND_DECODERS)
    assert numbers(records) == {int(kind) for kind in RecordKind}


def test_reserved_levels_are_named_and_no_build_knows_them() -> None:
    reserved = re.search(r"Reserved for later levels: entries (.*?)\.", PAGE)
    assert reserved is not None
    named = {EntryKind(int(number)) for number in re.findall(r"\d+", reserved[1])}
    assert named == set(EntryKind) - set(ENTRY_LEVELS)


def test_the_numbers_in_the_text_are_the_codes() -> None:
    assert f"up to {ROW_ITEMS_MAX}" in PAGE
    assert f"tags from {IGNORABLE_TAG} on" in PAGE
    assert BOND_IGNORABLE == IGNORABLE_TAG
