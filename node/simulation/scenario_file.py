"""Scenario files: blocks of commands, a line ``----``, and their output (see ``scenario``)."""

import re
from dataclasses import dataclass, replace
from typing import Any, Final

from node.raft.types import Settings
from node.simulation.scheduler import SECOND_US

SEPARATOR: Final = "----"
_UNITS_US: Final = {"ms": 1_000, "s": SECOND_US, "us": 1}


class ScenarioError(Exception):
    """The scenario's text is malformed, or a condition that it waits for does not come true."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some commands and their expected output. ``comment`` is the text before them."""

    comment: tuple[str, ...]
    commands: tuple[str, ...]
    expected: tuple[str, ...]


def parse_scenario(text: str) -> tuple[Block, ...]:
    """Return the blocks of a scenario file.

    Raises:
        ScenarioError: a block has no separator.
    """
    blocks = []
    for part in re.split(r"\n\s*\n", text.strip()):
        lines = part.splitlines()
        comment = tuple(line for line in lines if line.startswith("#"))
        lines = [line for line in lines if not line.startswith("#")]
        if not lines:
            blocks.append(Block(comment=comment, commands=(), expected=()))
            continue
        if SEPARATOR not in lines:
            raise ScenarioError(f"no {SEPARATOR} after {lines[-1]!r}")
        cut = lines.index(SEPARATOR)
        commands, expected = tuple(lines[:cut]), tuple(lines[cut + 1 :])
        blocks.append(Block(comment=comment, commands=commands, expected=expected))
    return tuple(blocks)


def format_scenario(blocks: tuple[Block, ...]) -> str:
    """Return the text of a scenario file."""
    parts = []
    for block in blocks:
        lines = [*block.comment]
        if block.commands:
            lines += [*block.commands, SEPARATOR, *block.expected]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def span_us(text: str) -> int:
    """Return the microseconds of a time such as ``500ms``.

    Raises:
        ValueError: ``text`` is not a time.
    """
    match = re.fullmatch(r"([0-9.]+)(us|ms|s)", text)
    if match is None:
        raise ValueError(f"{text} is not a time such as 500ms")
    return int(float(match[1]) * _UNITS_US[match[2]])


def settings_of(options: dict[str, str]) -> Settings:
    """Return the default settings with ``options`` by their names.

    Raises:
        ValueError: there is no such setting.
    """
    defaults = Settings()
    chosen: dict[str, Any] = {}
    for name, text in options.items():
        if not hasattr(defaults, name):
            raise ValueError(f"there is no setting {name}")
        default = getattr(defaults, name)
        if isinstance(default, bool):
            chosen[name] = text == "true"
        else:
            chosen[name] = type(default)(text)
    return replace(defaults, **chosen)
