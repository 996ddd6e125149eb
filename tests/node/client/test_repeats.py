"""For how long the client repeats a write: while the group surely knows its key."""

import contextlib

import httpx
import msgspec
import pytest

from node.api.limits import REPEATED_OF_TTL
from node.client import NotExecutedError, OutcomeUnknownError, UnreachableError
from node.client.options import CONNECT_TIMEOUT_S, SESSION_TTL_S_DEFAULT
from tests.node.client.scripted import OK, problem

REPEAT_S = SESSION_TTL_S_DEFAULT * REPEATED_OF_TTL


def test_a_write_that_may_have_happened_is_not_repeated_once_its_key_may_be_forgotten(scripted):
    client, script, clock = scripted(httpx.ReadError("reset"), deadline_s=1000)
    with pytest.raises(OutcomeUnknownError):
        client.execute(1)

    # A connection may take as long as CONNECT_TIMEOUT_S twice, and the copy leaves after that.
    assert len(script.asked) > 10
    assert REPEAT_S - 2 * CONNECT_TIMEOUT_S - 1 < clock.now < REPEAT_S - 2 * CONNECT_TIMEOUT_S + 0.1


def write_to_slow_nodes(scripted):
    """Ten nodes that never answer; the group executes what comes when it does not know its key any more."""
    times = []

    def time_out(request):
        times.append(clock.now)
        clock.now += 12
        if len(times) > 10:
            return httpx.Response(200, content=msgspec.json.encode(OK))
        raise httpx.ReadTimeout("slow")

    client, _, clock = scripted(time_out, nodes=10, deadline_s=1000)
    with contextlib.suppress(OutcomeUnknownError):
        client.execute(1)
    return times


def test_within_a_round_of_slow_nodes_it_ends_too(scripted):
    assert max(write_to_slow_nodes(scripted)) < REPEAT_S


def test_it_would_send_copies_after_the_memory_without_that_end(scripted, monkeypatch):
    monkeypatch.setattr("node.client.exchange._Attempts.too_old", lambda *_: False)

    assert max(write_to_slow_nodes(scripted)) > SESSION_TTL_S_DEFAULT


@pytest.mark.parametrize(
    "ending",
    [httpx.ConnectError("refused"), problem("not-executed", reason="no-leader", leader=None)],
    ids=repr,
)
def test_a_write_that_surely_did_not_happen_is_tried_until_the_deadline(scripted, ending):
    client, _, clock = scripted(ending, deadline_s=200)
    with pytest.raises((NotExecutedError, UnreachableError)):
        client.execute(1)

    assert clock.now > 190


def test_a_read_is_tried_until_the_deadline(scripted):
    client, _, clock = scripted(httpx.ReadError("reset"), deadline_s=200)
    with pytest.raises(UnreachableError):
        client.group()

    assert clock.now > 190


def test_a_key_given_again_is_as_old_as_its_first_copy(scripted):
    client, script, clock = scripted(httpx.ReadError("reset"))
    with pytest.raises(OutcomeUnknownError) as caught:
        client.execute(1)
    sent, key = len(script.asked), caught.value.idempotency_key
    with pytest.raises(OutcomeUnknownError):
        client.execute(1, idempotency_key=key)
    assert len(script.asked) > sent

    sent = len(script.asked)
    clock.now = REPEAT_S
    with pytest.raises(OutcomeUnknownError, match="too long ago") as caught:
        client.execute(1, idempotency_key=key)
    assert caught.value.idempotency_key == key
    assert len(script.asked) == sent


def test_a_write_interrupted_in_the_middle_may_have_happened(scripted):
    client, script, clock = scripted(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        client.execute(1, idempotency_key="mine")
    clock.now = REPEAT_S
    with pytest.raises(OutcomeUnknownError):
        client.execute(1, idempotency_key="mine")

    assert len(script.asked) == 1


def test_a_group_that_remembers_for_less_gets_fewer_repetitions(scripted):
    client, script, _ = scripted(httpx.ReadError("reset"), deadline_s=1000, session_ttl_s=10)
    with pytest.raises(OutcomeUnknownError):
        client.execute(1)

    assert len(script.asked) == 1


def test_the_clients_own_memory_of_keys_is_bounded(scripted, monkeypatch):
    monkeypatch.setattr("node.client.exchange._DOUBTFUL_KEYS_MAX", 3)
    client, _, _ = scripted(problem("internal-error"))
    for number in range(5):
        with pytest.raises(OutcomeUnknownError):
            client.execute(1, idempotency_key=str(number))

    assert list(client._exchange._doubtful) == ["2", "3", "4"]
