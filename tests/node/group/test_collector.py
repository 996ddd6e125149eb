"""No full collection walks over a large state: not while a member loads one, and not afterwards."""

import gc

import pytest

from node.group.collector import LoadingPause, begin


@pytest.fixture(autouse=True)
def _as_before():
    yield
    gc.unfreeze()
    gc.enable()


def tracked_by_collections(value):
    return any(one is value for one in gc.get_objects())


def test_no_collection_happens_while_a_member_loads_and_none_sees_its_state_afterwards():
    pause = LoadingPause()
    pause.note(is_loading=True)
    assert not gc.isenabled()
    state = [[]]
    pause.note(is_loading=True)
    assert tracked_by_collections(state)
    pause.note(is_loading=False)
    assert gc.isenabled()
    assert not tracked_by_collections(state)


def test_a_step_without_a_load_changes_nothing():
    frozen = gc.get_freeze_count()
    LoadingPause().note(is_loading=False)
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_collections_that_were_off_stay_off():
    gc.disable()
    pause = LoadingPause()
    pause.note(is_loading=True)
    pause.note(is_loading=False)
    assert not gc.isenabled()


def test_what_is_there_at_the_start_is_out_of_sight():
    state = [[]]
    begin()
    assert not tracked_by_collections(state)
