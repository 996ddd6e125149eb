"""Feature levels: what members may write and send while some of them run older software.

A level is a number; ``docs/features.md`` lists what each allows. A release understands a level one release
before it is used. A member writes or sends nothing of level n before it has applied the entry FEATURE n. A
group begins in its genesis at the highest level that all its founders know; the lowest level is 1. Later the
leader writes FEATURE n when every member, voters and learners, has reported for a while that it knows n. A
node that does not know the group's level is refused before it costs a quote.

The same holds for the version of the state machine: a group runs at one version, and its genesis records the
first.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from msgspec import Struct

from node.errors import RemoteProtocolError

LOWEST: Final = 1
HIGHEST: Final = 3  # that this release knows
NUMBER_MAX: Final = 65_535  # of a level, and of a machine's version
FAMILY_CHARS_MAX: Final = 200
IMAGE_CHARS_MAX: Final = 128


class Span(NamedTuple):
    """Whole numbers from ``low`` to ``high``."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.low}..{self.high}"


class Features(Struct, frozen=True):
    """Which levels this software can work at, and how long all must know one before it is written."""

    low: int = LOWEST
    high: int = HIGHEST
    after_ms: int = 60_000


class Build(Struct, frozen=True, cache_hash=True):
    """What a node's software is and knows. Its Hello reports it, and it stays the same for the node's life.

    Attributes:
        image: for people: name and version of the software.
        features: the levels that it can work at.
        family: the state machine, whatever its version.
        versions: of the machine that it can apply commands as.
    """

    image: str
    features: Span
    family: str
    versions: Span


class Levels(Struct, frozen=True):
    """The levels of a group: its feature level, its state machine, and the version of the machine."""

    level: int
    family: str
    version: int

    def encode(self) -> list[object]:
        return [self.level, self.family, self.version]


def levels_untrusted(value: object) -> Levels:
    """Return the levels that ``[level, family, version]`` names.

    Raises:
        RemoteProtocolError: it names no levels.
    """
    match value:
        case [int(level), str(family), int(version)] if (
            is_number(level) and is_number(version) and 1 <= len(family) <= FAMILY_CHARS_MAX
        ):
            return Levels(level, family, version)
        case _:
            raise RemoteProtocolError("bad-levels", "not a level, a machine's family and its version")


def is_number(value: object) -> bool:
    """Return whether ``value`` can be a level or a version."""
    return type(value) is int and 1 <= value <= NUMBER_MAX


def common_levels(builds: Iterable[Build]) -> Levels | None:
    """Return the highest levels that all of these know; None if they share no level."""
    found = list(builds)
    if len({build.family for build in found}) != 1:
        return None
    level = min(build.features.high for build in found)
    version = min(build.versions.high for build in found)
    if any(build.features.low > level or build.versions.low > version for build in found):
        return None
    return Levels(level, found[0].family, version)


def objection(build: Build, levels: Levels) -> str:
    """Return why a node of this build cannot be in a group at these levels; empty if it can."""
    if build.family != levels.family:
        return "machine-family-differs"
    return _outside("feature-level", build.features, Span(levels.level, levels.level)) or _outside(
        "machine-version", build.versions, Span(levels.version, levels.version)
    )


def objection_to_peer(mine: Build, theirs: Build) -> str:
    """Return why two nodes of these builds cannot be in one group; empty if they can."""
    if mine.family != theirs.family:
        return "machine-family-differs"
    return _outside("feature-level", theirs.features, mine.features) or _outside(
        "machine-version", theirs.versions, mine.versions
    )


def _outside(what: str, known: Span, wanted: Span) -> str:
    if known.high < wanted.low:
        return f"{what}-too-low"
    return f"{what}-too-high" if known.low > wanted.high else ""
