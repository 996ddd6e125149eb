"""``bondstone group-id``."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from node.cli.output import print_json, say
from node.client.inputs import read_file
from node.errors import ConfigError
from node.group.identity import GroupKey
from node.group_document import GroupDocument, load_group_document

DEFAULT: Final = object()
"""Stands for a value that is not written."""


def command(
    document: Annotated[Path | None, typer.Argument(help="The group document.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print the canonical document too.")] = False,
    against: Annotated[
        Path | None,
        typer.Option(help="Another group document: print the differences. Exit code 1 if the ids differ."),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="Print the public digest of the group key in this file instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the GroupId that a group document leads to; nodes bond only if their ids are equal."""
    if key_file is not None:
        text = read_file(key_file, what="group key", bytes_max=1024, secret=True).decode("ascii", "replace")
        say(GroupKey.from_hex(text).public_digest.hex())
        return
    if document is None:
        raise ConfigError("which group document? hint: bondstone group-id group.toml")
    ours = load_group_document(document)
    theirs = None if against is None else load_group_document(against)
    if as_json:
        print_json(_json(ours, theirs))
    else:
        _print(ours, theirs, explain=explain or theirs is not None)
    if theirs is not None and theirs.group_id != ours.group_id:
        raise typer.Exit(1)


def _json(ours: GroupDocument, theirs: GroupDocument | None) -> dict[str, Any]:
    out: dict[str, Any] = {
        "group_id": ours.group_id.hex(),
        "network_id": ours.network_id.hex(),
        "lineage": ours.lineage.hex(),
        "mrconfigid": ours.mrconfigid.hex(),
        "canonical": ours.canonical.hex(),
        "document": dict(ours.value),
    }
    if theirs is not None:
        out["differences"] = [
            {"key": key}
            | ({} if mine is DEFAULT else {"ours": mine})
            | ({} if other is DEFAULT else {"theirs": other})
            for key, mine, other in differences(ours, theirs)
        ]
    return out


def _print(ours: GroupDocument, theirs: GroupDocument | None, *, explain: bool) -> None:
    if not explain:
        say(ours.group_id.hex())
        return
    say(f"GroupId     {ours.group_id.hex()}")
    say(f"MRCONFIGID  {ours.mrconfigid.hex()}")
    if theirs is None:
        say()
        say("The document, as it is hashed (an absent key has its default):")
        say()
        for key, value in flattened(ours.value):
            say(f"  {key} = {_shown(value)}")
        say()
        say("Changing any of it, or adding a key that is not at its default, makes another group.")
        return
    found = list(differences(ours, theirs))
    if not found:
        say()
        say(f"{theirs.where} has the same meaning: it is the same group.")
        return
    say()
    say(f"{theirs.where} is another group, {theirs.group_id.hex()}:")
    say()
    for key, mine, other in found:
        say(f"  {key}: {_shown(mine)} -> {_shown(other)}")


def flattened(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of a document with the path to it."""
    for key in sorted(value):
        here = f"{path}.{key}" if path else key
        if isinstance(value[key], Mapping) and value[key]:
            yield from flattened(value[key], here)
        else:
            yield here, value[key]


def differences(ours: GroupDocument, theirs: GroupDocument) -> Iterator[tuple[str, Any, Any]]:
    """Yield every path at which two documents differ, with both values; ``DEFAULT``: not written."""
    mine, other = dict(flattened(ours.value)), dict(flattened(theirs.value))
    for key in sorted({*mine, *other}):
        pair = mine.get(key, DEFAULT), other.get(key, DEFAULT)
        if pair[0] != pair[1]:
            yield key, *pair


def _shown(value: Any) -> str:
    if value is DEFAULT:
        return "(default)"
    return json.dumps(value, default=lambda item: item.hex(), ensure_ascii=False)
