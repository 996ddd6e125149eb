from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from attestation.collateral.client.assembly import AGE_MAX
from attestation.collateral.client.requests import Source, UpdateMode
from attestation.collateral.client.retry import ATTEMPTS_MAX
from attestation.collateral.freshness import FreshnessState
from attestation.errors import (
    StaleEndorsementsError,
)
from enclave.mock.pccs import PccsFault, PCCSSettings, create_pccs, no_fault
from tests.support.collateral import (
    AUTHORITY,
    NEXT_SET,
    NOW,
    PLATFORM,
    SET,
    get,
    observation_of,
    refused,
    rig,
    run,
    sets_with_numbers,
)
from tests.support.pccs import BASE_URL, ClientRig

# ---- freshness -------------------------------------------------------------------------------------


def test_an_older_evaluation_number_than_seen_is_refused_though_it_is_genuine() -> None:
    old, new = sets_with_numbers(17, 18)
    seen = FreshnessState().fetched(observation_of(rig(endorsements=new)))
    # Without the memory it is taken: it is signed and in its window.
    assert get(rig(endorsements=old)).endorsements == old

    assert refused(rig(endorsements=old, seen=seen), StaleEndorsementsError) == "endorsements-rolled-back"


def test_a_source_that_goes_back_does_not_replace_what_is_held() -> None:
    old, new = sets_with_numbers(17, 18)
    r = rig(endorsements=new)
    get(r)
    r.serve(old)
    r.clock.now += AGE_MAX

    assert get(r).endorsements == new
    assert [change.endorsements for change in r.changes] == [new]


@pytest.mark.parametrize("item", ["root-crl", "pck-crl", "tcb-info", "qe-identity"])
def test_one_stale_item_among_fresh_ones_is_a_set_that_goes_back(item: str) -> None:
    """A cache that refreshes everything but one item: genuine, in its window, and older than what was seen."""
    stale = {"stale": lambda: SET}
    seen = FreshnessState().fetched(observation_of(rig(endorsements=NEXT_SET, now=NOW + timedelta(days=2))))
    r = rig(endorsements=NEXT_SET, now=NOW + timedelta(days=2), seen=seen, **stale)
    r.faults.always[item] = PccsFault.STALE
    unaware = rig(endorsements=NEXT_SET, now=NOW + timedelta(days=2), **stale)
    unaware.faults.always[item] = PccsFault.STALE

    # Without the memory it is taken.
    assert get(unaware).endorsements != NEXT_SET
    assert refused(r, StaleEndorsementsError) == "endorsements-rolled-back"


def test_a_source_that_goes_back_is_passed_over_for_one_that_does_not() -> None:
    old, new = sets_with_numbers(17, 18)
    behind = httpx.ASGITransport(app=create_pccs(PCCSSettings(endorsements=lambda: old, fault=no_fault)))

    class ByHost(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self._inner = inner

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            chosen = behind if request.url.host == "behind.example" else self._inner
            return await chosen.handle_async_request(request)

    sources = (Source.pccs("https://behind.example"), Source.pccs(BASE_URL))
    seen = FreshnessState().fetched(observation_of(rig(endorsements=new)))
    fresh = get(rig(endorsements=new, sources=sources, transport=ByHost, seen=seen))

    assert (fresh.source, fresh.endorsements) == (BASE_URL, new)
    assert get(rig(endorsements=new, sources=sources, transport=ByHost)).endorsements == old


def test_a_set_on_disk_that_is_older_than_seen_is_not_used(tmp_path: Path) -> None:
    old, new = sets_with_numbers(17, 18)
    get(rig(endorsements=old, directory=tmp_path))
    seen = FreshnessState().fetched(observation_of(rig(endorsements=new)))
    r = rig(endorsements=new, directory=tmp_path, seen=seen)

    assert get(r).endorsements == new


def test_a_genuine_set_on_disk_that_is_behind_the_floor_is_kept(tmp_path: Path) -> None:
    """It may be what the node needs again, once whatever raised the floor was put right."""
    old, new = sets_with_numbers(17, 18)
    get(rig(endorsements=old, directory=tmp_path))
    (record,) = tmp_path.iterdir()
    kept = record.read_bytes()
    seen = FreshnessState().fetched(observation_of(rig(endorsements=new)))

    assert refused(rig(endorsements=old, directory=tmp_path, seen=seen), StaleEndorsementsError)
    assert record.read_bytes() == kept


def test_a_client_that_asked_for_the_early_set_once_takes_the_standard_one_again() -> None:
    """Two sets that are valid at the same time are not old and new: each mode has its own floor."""
    standard, early = sets_with_numbers(17, 18)
    before = rig(endorsements=early, update=UpdateMode.EARLY)
    get(before)

    assert get(rig(endorsements=standard, seen=before.client.seen)).endorsements == standard
    again = rig(endorsements=standard, update=UpdateMode.EARLY, seen=before.client.seen)
    assert refused(again, StaleEndorsementsError) == "endorsements-rolled-back"


def test_new_collateral_is_reported_and_the_same_again_is_not() -> None:
    r = rig()
    get(r)
    run(r.client.refresh(PLATFORM))
    assert len(r.changes) == 1

    r.clock.now += timedelta(days=2)
    r.serve(NEXT_SET)
    get(r)
    assert [change.endorsements for change in r.changes] == [SET, NEXT_SET]
    assert r.client.seen.newest_issue == r.changes[-1].verified.valid_from


# ---- refresh ahead of expiry -----------------------------------------------------------------------


class StoppedError(Exception):
    pass


def keep_fresh_for(r: ClientRig, total: timedelta) -> None:
    """Run the refresher until this much of its own time has passed."""
    end = r.clock.now + total
    plain = r.client._sleep

    async def sleep(seconds: float) -> None:
        await plain(seconds)
        if r.clock.now >= end:
            raise StoppedError

    r.client._sleep = sleep
    with pytest.raises(StoppedError):
        run(r.client.keep_fresh())


def test_held_sets_are_refreshed_before_they_expire_without_being_asked_for() -> None:
    r = rig()
    get(r)
    r.clock.now += timedelta(days=2) - timedelta(hours=1)
    r.serve(AUTHORITY.endorsements(r.clock.now))
    keep_fresh_for(r, timedelta(hours=2))

    assert len(r.changes) == 2
    assert r.faults.asked["tcb-info"] == 2


def test_the_refresher_survives_a_source_that_is_down_and_asks_again_later() -> None:
    r = rig()
    get(r)
    r.clock.now += AGE_MAX
    r.faults.fail_all(PccsFault.SERVER_ERROR)
    keep_fresh_for(r, timedelta(minutes=5))
    asked = r.faults.asked["tcb-info"]
    assert 1 + ATTEMPTS_MAX < asked <= 1 + ATTEMPTS_MAX * 6

    r.faults.always.clear()
    keep_fresh_for(r, timedelta(minutes=5))
    assert r.faults.asked["tcb-info"] == asked + 1


def test_the_refresher_waits_when_nothing_is_held() -> None:
    r = rig()
    keep_fresh_for(r, timedelta(minutes=3))

    assert r.clock.slept_s == [60.0] * 3
