"""When the group first saw each set of collateral, as replicated state: the start of grace periods.

A host could delete a note on one node's disk, and grace would begin again. There is one command, which only
members may use:

    ["tcb-seen", fmspc, number, newest level]     -> true if it is new       6 bytes, a number, Unix seconds

A member writes it when its own fetch first brings a number: the leader at once, other members a moment later.
The time of the sight is the entry's. A number that is not above all others of its platform model is not new.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from attestation.collateral.enforcement import CollateralSet, Sight, first_sight
from node.machines.base import ApplyContext, CommandError, StateMachine
from node.machines.system import CombinedSystem, RequestKind, SystemPart, SystemState, name_of
from node.system.grants import not_permitted

PART: Final = "tcb"
SEEN: Final = "tcb-seen"
MODELS_MAX: Final = 64
NUMBERS_MAX: Final = 32
FMSPC_BYTES: Final = 6
NUMBER_MAX: Final = 0xFFFF_FFFF
_SECONDS_MAX: Final = 253_402_300_799  # the last second of the year 9999

# Per model, in the order of numbers: number, newest level in Unix seconds, time of the entry in milliseconds.
_Sights = Mapping[bytes, tuple[tuple[int, int, int], ...]]


class TcbState(SystemPart):
    """Keeps first sights, oldest first, for each platform model (FMSPC)."""

    def __init__(self) -> None:
        self._sights: _Sights = MappingProxyType({})

    @property
    def part(self) -> str:
        return PART

    @property
    def names(self) -> frozenset[str]:
        return frozenset({SEEN})

    @property
    def sights(self) -> tuple[Sight, ...]:
        """All sights. From any thread: a change makes another value."""
        return tuple(
            Sight(
                seen=CollateralSet(
                    fmspc=fmspc, number=number, newest_level=datetime.fromtimestamp(newest, UTC)
                ),
                at=datetime.fromtimestamp(at_ms / 1000, UTC),
            )
            for fmspc, sights in self._sights.items()
            for number, newest, at_ms in sights
        )

    def is_news(self, seen: CollateralSet) -> bool:
        """Return whether ``command_of`` this would change anything."""
        known = self._sights.get(seen.fmspc)
        if known is None:
            return len(self._sights) < MODELS_MAX
        return seen.number > known[-1][0] and len(known) < NUMBERS_MAX

    def since(self, fmspc: bytes, superseded_at: datetime) -> datetime | None:
        return first_sight(self.sights, fmspc, superseded_at)

    def judge(
        self,
        credential: bytes | None,
        request: RequestKind,
        value: Any,
        *,
        now_ms: int,  # noqa: ARG002
        machine: StateMachine,  # noqa: ARG002
    ) -> None:
        if request is RequestKind.SYSTEM_COMMAND and name_of(value) == SEEN and credential is not None:
            raise not_permitted("what the group has seen of collateral is written by its members alone")

    def apply(self, command: Any, context: ApplyContext) -> bool:
        match command:
            case [str(name), bytes(fmspc), int(number), int(newest)] if (
                name == SEEN
                and len(fmspc) == FMSPC_BYTES
                and 0 <= number <= NUMBER_MAX
                and 0 <= newest <= _SECONDS_MAX
            ):
                return self._see(fmspc, number, newest, context.time_ms)
            case _:
                raise CommandError(
                    "system-command-malformed", f"the command is [{SEEN!r}, fmspc, number, newest level]"
                )

    def _see(self, fmspc: bytes, number: int, newest: int, at_ms: int) -> bool:
        known = self._sights.get(fmspc, ())
        if known and number <= known[-1][0]:
            return False
        # No sight is ever dropped to make room: the grace of a forgotten one would begin again.
        if (not known and len(self._sights) >= MODELS_MAX) or len(known) >= NUMBERS_MAX:
            raise CommandError("tcb-seen-full", "there is no room for another sight: those there are stay")
        self._sights = MappingProxyType({**self._sights, fmspc: (*known, (number, newest, at_ms))})
        return True

    def query(self, query: Any) -> Any:  # noqa: ARG002
        raise CommandError("system-query-malformed", "there is no query of what was seen of collateral")

    def savepoint(self) -> _Sights:
        return self._sights

    def rollback(self, savepoint: _Sights) -> None:
        self._sights = savepoint

    def snapshot(self) -> list[Any]:
        return [[fmspc, [list(sight) for sight in sights]] for fmspc, sights in sorted(self._sights.items())]

    def restore(self, snapshot: Any) -> None:
        """Replace everything.

        Raises:
            ValueError: this is not a snapshot of this state; the state is unchanged.
        """
        if not isinstance(snapshot, list) or len(snapshot) > MODELS_MAX:
            raise ValueError("not a snapshot of what was seen of collateral")
        sights: dict[bytes, tuple[tuple[int, int, int], ...]] = {}
        for item in snapshot:
            match item:
                case [bytes(fmspc), [*found]] if len(fmspc) == FMSPC_BYTES and 0 < len(found) <= NUMBERS_MAX:
                    sights[fmspc] = tuple(_sight_untrusted(each) for each in found)
                case _:
                    raise ValueError("not a snapshot of what was seen of collateral")
        self._sights = MappingProxyType(sights)


def _sight_untrusted(value: Any) -> tuple[int, int, int]:
    match value:
        case [int(number), int(newest), int(at_ms)]:
            return number, newest, at_ms
        case _:
            raise ValueError("not a sight of a set of collateral")


def command_of(seen: CollateralSet) -> list[Any]:
    """Return the command that records a sight."""
    return [SEEN, seen.fmspc, seen.number, int(seen.newest_level.timestamp())]


def tcb_of(system: SystemState) -> TcbState:
    """Return this part of a group's system state."""
    assert isinstance(system, CombinedSystem), "every group's system state has parts"
    part = system[PART]
    assert isinstance(part, TcbState), "one part has this name"
    return part
