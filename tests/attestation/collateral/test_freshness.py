from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.collateral.freshness import (
    FLOORS_MAX,
    FreshnessState,
    Observation,
    clock_floor,
    effective_now,
)
from attestation.encoding.canonical import decode_untrusted, encode
from attestation.errors import MalformedError, StaleEndorsementsError
from attestation.tickets.protocol import CLOCK_AHEAD_MAX
from attestation.values import DURATION_MAX, TIME_MAX

T = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SEEN = Observation(
    root=b"r" * 32,
    fmspc=bytes(6),
    tcb_info_number=20,
    qe_identity_number=19,
    tcb_info_issued=T,
    qe_identity_issued=T - timedelta(hours=1),
    root_crl_issued=T - 30 * DAY,
    pck_crl_issued=T - DAY,
    pck_crl_authority=b"platform",
    update="standard",
)
FIELDS = [
    "tcb_info_number",
    "qe_identity_number",
    "tcb_info_issued",
    "qe_identity_issued",
    "root_crl_issued",
    "pck_crl_issued",
]


def moved(name: str, steps: int) -> Observation:
    value = getattr(SEEN, name)
    return replace(SEEN, **{name: value + (steps if isinstance(value, int) else steps * DAY)})


@pytest.mark.parametrize("name", FIELDS)
def test_no_number_and_no_date_ever_goes_back(name: str) -> None:
    state = FreshnessState().fetched(SEEN)
    # Without the memory the very same set is taken.
    FreshnessState().require_not_older(moved(name, -1))

    with pytest.raises(StaleEndorsementsError) as caught:
        state.fetched(moved(name, -1))
    assert caught.value.reason == "endorsements-rolled-back"
    assert caught.value.values["field"] == name


@pytest.mark.parametrize("name", FIELDS)
def test_a_newer_set_raises_the_floor(name: str) -> None:
    state = FreshnessState().fetched(SEEN).fetched(moved(name, 1))

    with pytest.raises(StaleEndorsementsError):
        state.require_not_older(SEEN)
    state.require_not_older(moved(name, 1))


def test_a_set_that_is_newer_in_one_thing_and_older_in_another_is_refused() -> None:
    mixed = replace(moved("tcb_info_number", 1), qe_identity_issued=T - 2 * DAY)

    with pytest.raises(StaleEndorsementsError):
        FreshnessState().fetched(SEEN).fetched(mixed)


@pytest.mark.parametrize(
    "other",
    [
        replace(SEEN, fmspc=b"\1" * 6),
        replace(SEEN, root=b"m" * 32),
        replace(SEEN, pck_crl_authority=b"processor"),
    ],
)
def test_floors_of_another_platform_root_or_ca_are_independent(other: Observation) -> None:
    old = replace(other, tcb_info_number=1)

    assert len(FreshnessState().fetched(SEEN).fetched(old).floors) == 2


def test_the_newest_issue_date_is_of_all_platforms_and_never_goes_back() -> None:
    state = FreshnessState().fetched(SEEN)
    older = replace(SEEN, fmspc=b"\1" * 6, tcb_info_issued=T - 9 * DAY)

    assert state.newest_issue == T
    assert state.fetched(older).newest_issue == T
    assert state.fetched(moved("pck_crl_issued", 5)).newest_issue == T + 4 * DAY


def test_the_number_of_floors_is_bounded_and_the_oldest_goes_first() -> None:
    state = FreshnessState()
    for number in range(FLOORS_MAX + 1):
        state = state.fetched(
            replace(SEEN, fmspc=number.to_bytes(6, "big"), tcb_info_issued=T + number * DAY)
        )

    assert len(state.floors) == FLOORS_MAX
    assert FreshnessState.from_bytes_untrusted(state.to_bytes()) == state
    assert bytes(6) not in {key[1] for key in state.floors}
    assert state.newest_issue == T + FLOORS_MAX * DAY


# ---- the state on disk --------------------------------------------------------------------------


def test_the_state_survives_a_restart() -> None:
    state = FreshnessState().fetched(SEEN).fetched(replace(SEEN, fmspc=b"\2" * 6))
    again = FreshnessState.from_bytes_untrusted(state.to_bytes())

    assert again == state
    assert again.to_bytes() == state.to_bytes()
    assert FreshnessState.from_bytes_untrusted(FreshnessState().to_bytes()) == FreshnessState()


def test_a_number_of_zero_is_a_number() -> None:
    state = FreshnessState().fetched(replace(SEEN, tcb_info_number=0))

    assert FreshnessState.from_bytes_untrusted(state.to_bytes()) == state


def damaged(**changes: object) -> bytes:
    value = decode_untrusted(FreshnessState().fetched(SEEN).to_bytes(), bytes_max=10_000, items_max=10_000)
    value["floors"][0].update(changes)
    return encode(value)


@pytest.mark.parametrize(
    "data",
    [
        encode(None),
        encode({"newest_issue": None}),
        encode({"newest_issue": "x", "floors": []}),
        encode({"newest_issue": 10**18, "floors": []}),
        encode({"newest_issue": None, "floors": {}}),
        encode({"newest_issue": None, "floors": [1]}),
        encode({"newest_issue": None, "floors": [{}] * (FLOORS_MAX + 1)}),
        damaged(root=b"short"),
        damaged(fmspc="000000000000"),
        damaged(fmspc=b"12345"),
        damaged(root=None),
        damaged(pck_crl_authority=None),
        damaged(tcb_info_number=-1),
        damaged(tcb_info_number=True),
        damaged(root_crl_issued=None),
        damaged(more=1),
    ],
)
def test_a_damaged_state_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        FreshnessState.from_bytes_untrusted(data)
    assert caught.value.reason == "freshness-state-invalid"


@given(st.binary(max_size=200))
def test_arbitrary_bytes_as_state_raise_only_the_declared_error(data: bytes) -> None:
    with pytest.raises(MalformedError):
        FreshnessState.from_bytes_untrusted(data)


# ---- time ---------------------------------------------------------------------------------------


def now_with(host: datetime, *, issue: datetime | None = None, peers: tuple[datetime, ...] = ()) -> datetime:
    floor = clock_floor(build_date=T, newest_issue=issue, peer_clocks=peers, tolerance=timedelta(minutes=5))
    return effective_now(host, floor)


def test_a_right_clock_is_taken_as_it_is() -> None:
    assert now_with(T + 9 * DAY, issue=T + 8 * DAY, peers=(T + 9 * DAY,)) == T + 9 * DAY


def test_the_clock_is_never_before_the_build_of_the_image() -> None:
    assert now_with(T - 1000 * DAY) == T


def test_the_clock_is_never_before_the_newest_issue_date_seen() -> None:
    assert now_with(T - DAY, issue=T + 40 * DAY) == T + 40 * DAY


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ((10,), 10),
        ((10, 0), 0),
        ((10, 10), 10),
        ((99, 10, 0), 10),
        ((99, 99, 10, 10), 10),
        ((99, 99, 10, 10, 10), 10),
        ((99, 99, 99, 10, 10), 99),
    ],
)
def test_the_clock_follows_the_time_that_a_majority_of_peers_has_reached(
    offsets: tuple[int, ...], expected: int
) -> None:
    peers = tuple(T + days * DAY for days in offsets)

    assert now_with(T - DAY, peers=peers) == max(T, T + expected * DAY - timedelta(minutes=5))


def test_a_clock_a_little_behind_its_peers_is_left_alone() -> None:
    host = T + DAY - timedelta(minutes=4)

    assert now_with(host, peers=(T + DAY,) * 3) == host


def test_a_clock_set_back_does_not_revive_an_expired_set() -> None:
    expires = T + 30 * DAY
    set_back = T + DAY

    # The attack: by the host's clock the set is good again.
    assert set_back < expires
    assert now_with(set_back, issue=T + 31 * DAY) > expires
    assert now_with(set_back, peers=(T + 31 * DAY,) * 2) > expires


@pytest.mark.parametrize("host", [datetime.max.replace(tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)])
def test_a_clock_at_the_end_of_time_can_be_added_to(host: datetime) -> None:
    with pytest.raises(OverflowError):
        _ = host + DURATION_MAX
    now = now_with(host)

    assert now == TIME_MAX
    assert now + DURATION_MAX + CLOCK_AHEAD_MAX > now


def test_by_default_a_clock_may_be_five_minutes_behind_its_peers() -> None:
    floor = clock_floor(build_date=T - DAY, newest_issue=None, peer_clocks=(T,))

    assert (floor.source, floor.at) == ("peers", T - timedelta(minutes=5))


def test_the_floor_names_its_source() -> None:
    floor = clock_floor(build_date=T, newest_issue=T + DAY, peer_clocks=(T,))

    assert (floor.source, floor.at) == ("newest-issue-date", T + DAY)


# ---- which of two sets is the newer one -------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FIELDS if name.endswith("issued")])
def test_a_set_supersedes_another_of_its_number_if_a_part_is_newer_and_none_is_older(name: str) -> None:
    newer = moved(name, 1)
    assert newer.supersedes(SEEN)
    assert not SEEN.supersedes(newer)
    assert not SEEN.supersedes(SEEN)

    for older in FIELDS:
        if older.endswith("issued") and older != name:
            mixed = replace(newer, **{older: getattr(SEEN, older) - DAY})
            assert not mixed.supersedes(SEEN)
            assert not SEEN.supersedes(mixed)


@pytest.mark.parametrize("step", [-1, 1])
@pytest.mark.parametrize("name", ["tcb_info_number", "qe_identity_number"])
def test_no_set_supersedes_one_of_another_number(name: str, step: int) -> None:
    other = replace(moved(name, step), pck_crl_issued=SEEN.pck_crl_issued + DAY)

    assert not other.supersedes(SEEN)
    assert not SEEN.supersedes(other)


def test_issue_dates_are_compared_within_one_number() -> None:
    """Each number has a series of its own: a later number may have been issued earlier."""
    state = FreshnessState().fetched(SEEN)
    later = replace(SEEN, tcb_info_number=21, tcb_info_issued=T - 9 * DAY)

    assert state.fetched(later).floors[later.key] == later
    with pytest.raises(StaleEndorsementsError):
        state.fetched(replace(later, pck_crl_issued=T - 9 * DAY))
