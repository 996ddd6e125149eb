"""Never going back: what a verifier remembers of collateral and of time.

Signed collateral is valid for 30 days, so a source can serve an old set that still calls a broken platform
UpToDate. The host owns the clock, so it can set it back to a time when an expired set was good. Against both
this module keeps two floors, as pure values:

    per (root, FMSPC,   the highest evaluation data numbers, and of each the newest issue dates, that our own
     update mode)       client has fetched in that mode
    one clock floor     the newest issue date seen, the image's build date, and the clocks of a majority
                        of the peers' platforms minus a tolerance: whichever is latest

Several sets of one platform are valid at the same time (``update=standard`` and ``early``), and neither is
an older version of the other. So this verifier's update mode alone decides which *number* counts: floors are
kept per mode, and only sets that our own client fetched raise them (``fetched``). A set that a peer stapled
to evidence has one effect, once that evidence is *accepted*: its issue dates are known to have passed
(``passed``). Otherwise any peer could send Intel's newest ("early") set, and so have our own ("standard")
set refused.

This module has two limits. After a restart it cannot distinguish a replayed state from the right one, since
the host owns the disk. And it does not keep ``now`` at the latest time seen, since the host must be able to
correct a clock that was ahead by mistake. Both can only be exploited down to the issue dates inside the
collateral itself and the image's build date, which the host cannot forge.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, Self

from attestation.collateral.endorsements import AuthenticEndorsements, VerifiedEndorsements
from attestation.encoding.canonical import decode_untrusted, encode
from attestation.encoding.fields import (
    UINT64_MAX,
    StrictMap,
    array_of,
    bytes_of,
    bytes_up_to,
    integer,
    optional,
    text,
)
from attestation.errors import MalformedError, StaleEndorsementsError
from attestation.values import TIME_MAX, timestamp

FLOORS_MAX: Final = 256
STATE_BYTES_MAX: Final = 256 * 1024
_STATE_ITEMS_MAX: Final = 32 * FLOORS_MAX  # a map of nine members each, and what is around them
PEER_CLOCK_TOLERANCE: Final = timedelta(minutes=5)

_DATES: Final = ("tcb_info_issued", "qe_identity_issued", "root_crl_issued", "pck_crl_issued")
_NUMBERS: Final = ("tcb_info_number", "qe_identity_number")
# The number that decides whether two issue dates are of one series. CRLs are a single one.
_SERIES: Final = {"tcb_info_issued": "tcb_info_number", "qe_identity_issued": "qe_identity_number"}
UPDATE_CHARACTERS_MAX: Final = 16

FloorKey = tuple[bytes, bytes, bytes, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The facts of one verified set of endorsements that must not go back.

    Attributes:
        root: SHA-256 of the trust root's SPKI, 32 bytes.
        fmspc: 6 bytes.
        tcb_info_number: tcbEvaluationDataNumber of the TCB info.
        qe_identity_number: tcbEvaluationDataNumber of the QE identity; may differ from the other.
        tcb_info_issued: issueDate, aware UTC.
        qe_identity_issued: issueDate, aware UTC.
        root_crl_issued: thisUpdate, aware UTC.
        pck_crl_issued: thisUpdate, aware UTC.
        pck_crl_authority: key id of the CA that issued the CRL: there are two, each with dates of its own.
        update: the mode of our own client's requests, such as ``standard``.
    """

    root: bytes
    fmspc: bytes
    tcb_info_number: int
    qe_identity_number: int
    tcb_info_issued: datetime
    qe_identity_issued: datetime
    root_crl_issued: datetime
    pck_crl_issued: datetime
    pck_crl_authority: bytes
    update: str

    @classmethod
    def of(cls, verified: VerifiedEndorsements, update: str) -> Self:
        """Return what to remember of this set, which was requested in this mode."""
        return cls.of_authentic(verified.authentic, update)

    @classmethod
    def of_authentic(cls, authentic: AuthenticEndorsements, update: str) -> Self:
        """Return the same for a set whose windows are not checked."""
        return cls(
            root=authentic.root.spki_digest,
            fmspc=authentic.tcb_info.fmspc,
            tcb_info_number=authentic.tcb_info.tcb_evaluation_data_number,
            qe_identity_number=authentic.qe_identity.tcb_evaluation_data_number,
            tcb_info_issued=authentic.tcb_info.issue_date,
            qe_identity_issued=authentic.qe_identity.issue_date,
            root_crl_issued=authentic.root_crl.this_update,
            pck_crl_issued=authentic.pck_crl.this_update,
            pck_crl_authority=authentic.pck_crl.authority_key_identifier,
            update=update,
        )

    @property
    def newest_issue(self) -> datetime:
        """The latest date in the set: a time that has certainly come."""
        dates: list[datetime] = [getattr(self, name) for name in _DATES]
        return max(dates)

    @property
    def key(self) -> FloorKey:
        """The key under which the floor is kept."""
        return self.root, self.fmspc, self.pck_crl_authority, self.update

    @property
    def numbers(self) -> tuple[int, int]:
        """The evaluation data numbers of TCB info and QE identity: they identify one of Intel's sets."""
        return self.tcb_info_number, self.qe_identity_number

    def supersedes(self, other: "Observation") -> bool:
        """Return whether it has the same numbers, with at least one newer part and no older one.

        The parts are signed one by one, so a set can combine a new TCB info with an old CRL.
        """
        ours = [getattr(self, name) for name in _DATES]
        theirs = [getattr(other, name) for name in _DATES]
        return (
            self.key == other.key
            and self.numbers == other.numbers
            and ours != theirs
            and all(mine >= its for mine, its in zip(ours, theirs, strict=True))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshnessState:
    """Everything seen so far. A value: ``fetched`` and ``passed`` return the next one.

    Attributes:
        floors: per root, FMSPC, PCK CA and update mode, the newest set that our own client fetched.
        newest_issue: the newest issue date of any set seen; None before the first.
    """

    floors: Mapping[FloorKey, Observation] = field(default_factory=lambda: MappingProxyType({}))
    newest_issue: datetime | None = None

    def require_not_older(self, seen: Observation) -> None:
        """Return only if no number and no date of this set is below the floor of its mode.

        Issue dates of TCB infos and QE identities are compared within one number: each has its own series.

        Raises:
            StaleEndorsementsError: ``endorsements-rolled-back``.
        """
        floor = self.floors.get(seen.key)
        if floor is None:
            return
        for name in (*_NUMBERS, *_DATES):
            least, found = getattr(floor, name), getattr(seen, name)
            series = _SERIES.get(name)
            if series is not None and getattr(floor, series) != getattr(seen, series):
                continue
            if found < least:
                raise StaleEndorsementsError(
                    "endorsements-rolled-back",
                    f"the collateral's {name.replace('_', ' ')} is {_shown(found)}, and {_shown(least)} was"
                    f" fetched before with update = {seen.update!r}: the source now serves an older set",
                    values={
                        "field": name,
                        "fmspc": seen.fmspc.hex(),
                        "update": seen.update,
                        "expected": _shown(least),
                        "found": _shown(found),
                    },
                )

    def fetched(self, seen: Observation) -> "FreshnessState":
        """Return the state that also remembers this set, which our own client fetched.

        Raises:
            StaleEndorsementsError: ``endorsements-rolled-back``; the state stays as it was.
        """
        self.require_not_older(seen)
        if self.floors.get(seen.key) == seen:
            return self
        if seen.key not in self.floors and len(self.floors) >= FLOORS_MAX:
            # Dropping the floor that was set longest ago forgets least; the clock floor stays.
            oldest = min(self.floors, key=lambda key: self.floors[key].newest_issue)
            kept = {key: floor for key, floor in self.floors.items() if key != oldest}
        else:
            kept = dict(self.floors)
        kept[seen.key] = seen
        return replace(self.passed(seen.newest_issue), floors=MappingProxyType(kept))

    def passed(self, at: datetime) -> "FreshnessState":
        """Return the state that remembers that this time has passed: an issue date is never in the future."""
        if self.newest_issue is not None and self.newest_issue >= at:
            return self
        return replace(self, newest_issue=at)

    def to_bytes(self) -> bytes:
        """Return the state as deterministic CBOR, to keep across restarts."""
        return encode(
            {
                "newest_issue": None if self.newest_issue is None else _seconds(self.newest_issue),
                "floors": [_observation_to_value(floor) for _, floor in sorted(self.floors.items())],
            }
        )

    @classmethod
    def from_bytes_untrusted(cls, data: bytes) -> Self:
        """Return the state from the bytes that ``to_bytes`` made.

        Raises:
            MalformedError: ``freshness-state-invalid`` or a ``cbor-*`` reason.
        """
        value = decode_untrusted(data, bytes_max=STATE_BYTES_MAX, items_max=_STATE_ITEMS_MAX)
        state = StrictMap(value, error=_invalid, names=("newest_issue", "floors"))
        observations = state.take("floors", _FLOORS)
        return cls(
            floors=MappingProxyType({item.key: item for item in observations}),
            newest_issue=state.take("newest_issue", optional(_time)),
        )


def _shown(value: int | datetime) -> int | str:
    return timestamp(value) if isinstance(value, datetime) else value


def _invalid(path: str, text: str) -> MalformedError:
    return MalformedError("freshness-state-invalid", f"the freshness state's {path or 'outer value'} {text}")


def _seconds(at: datetime) -> int:
    return int(at.timestamp())


def _time(value: Any) -> datetime:
    return datetime.fromtimestamp(_SECONDS(value), UTC)


def _observation_to_value(floor: Observation) -> dict[str, Any]:
    return {
        "root": floor.root,
        "fmspc": floor.fmspc,
        "pck_crl_authority": floor.pck_crl_authority,
        "update": floor.update,
        **{name: getattr(floor, name) for name in _NUMBERS},
        **{name: _seconds(getattr(floor, name)) for name in _DATES},
    }


def _observation(value: Any) -> Observation:
    names = {"root", "fmspc", "pck_crl_authority", "update", *_NUMBERS, *_DATES}
    floor = StrictMap(value, error=_invalid, path="floors[]", names=names)
    return Observation(
        root=floor.take("root", _ROOT),
        fmspc=floor.take("fmspc", _FMSPC),
        pck_crl_authority=floor.take("pck_crl_authority", _AUTHORITY),
        update=floor.take("update", _UPDATE),
        tcb_info_number=floor.take("tcb_info_number", _NUMBER),
        qe_identity_number=floor.take("qe_identity_number", _NUMBER),
        **{name: floor.take(name, _time) for name in _DATES},
    )


# 1970-01-01 to 9999-12-31T23:59:59Z, the last second that datetime can express.
_SECONDS: Final = integer(0, 253_402_300_799, form="a time in Unix seconds")
_ROOT: Final = bytes_of(32)
_FMSPC: Final = bytes_of(6)
_AUTHORITY: Final = bytes_up_to(STATE_BYTES_MAX)
_UPDATE: Final = text(UPDATE_CHARACTERS_MAX, re.compile(".+", re.DOTALL))
_NUMBER: Final = integer(0, UINT64_MAX)
_FLOORS: Final = array_of(_observation, FLOORS_MAX)


# ---- time -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockFloor:
    """The earliest that ``now`` may be, and where this bound comes from.

    Attributes:
        at: aware UTC.
        source: ``build-date``, ``newest-issue-date`` or ``peers``.
    """

    at: datetime
    source: str


def clock_floor(
    *,
    build_date: datetime,
    newest_issue: datetime | None,
    peer_clocks: Sequence[datetime],
    tolerance: timedelta = PEER_CLOCK_TOLERANCE,
) -> ClockFloor:
    """Return the latest of the three lower bounds on time.

    Args:
        build_date: when the image was built; measured with the image, so the host cannot change it.
        newest_issue: ``FreshnessState.newest_issue``.
        peer_clocks: what the peers report as the time *now*, one value per platform.
        tolerance: how far behind a majority of the peers our clock may be.
    """
    floors = [ClockFloor(at=build_date, source="build-date")]
    if newest_issue is not None:
        floors.append(ClockFloor(at=newest_issue, source="newest-issue-date"))
    if peer_clocks:
        # More than half of the peers report at least this time: with the clocks in descending order, it is
        # the one at n // 2. One lying host among three peers cannot move it past an honest clock.
        majority = sorted(peer_clocks, reverse=True)[len(peer_clocks) // 2]
        floors.append(ClockFloor(at=majority - tolerance, source="peers"))
    return max(floors, key=lambda floor: floor.at)


def effective_now(host_clock: datetime, floor: ClockFloor) -> datetime:
    """Return the ``now`` for every check: the host's clock, but never before the floor.

    If the host sets its clock back to revive expired collateral or tickets, ``now`` is still at least the
    floor. A clock that is set forward only shortens trust. A clock at the last representable time is read
    as a little less, so that a sum with it does not overflow and the check refuses as usual.
    """
    assert host_clock.tzinfo is not None, "a time without a zone"
    return min(max(host_clock, floor.at), TIME_MAX)
