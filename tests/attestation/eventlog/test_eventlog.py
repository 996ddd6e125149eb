import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import AppraisalError
from attestation.eventlog.ccel import parse_ccel_untrusted
from attestation.eventlog.digests import Coverage
from attestation.eventlog.dstack import import_dstack_log_untrusted
from attestation.eventlog.events import (
    REGISTER_ZERO,
    RegisterState,
    compare,
    replay,
)
from attestation.eventlog.verify import (
    verify_event_log,
)
from tests.support.eventlogs import BOOT, RUNTIME, ccel, sha384
from tests.support.vectors import VECTORS, needs_vectors, vector

# ---- replay ----------------------------------------------------------------------------------------


def test_a_register_starts_at_zero_and_is_the_hash_of_its_old_value_and_the_digest() -> None:
    first = sha384(bytes(48) + BOOT[0].digest)

    assert replay(BOOT[:1])[1] == first
    assert replay([BOOT[0], BOOT[2]])[1] == sha384(first + BOOT[2].digest)


def test_the_order_of_events_matters() -> None:
    assert replay(RUNTIME)[3] != replay(RUNTIME[::-1])[3]


def test_an_informative_record_and_one_of_mrtd_extend_nothing() -> None:
    informative = ccel("no-action", b"StartupLocality")
    of_mrtd = replace(ccel("separator", bytes(4)), register=None)

    comparisons = compare([informative, of_mrtd], (REGISTER_ZERO,) * 4)

    assert replay([informative, of_mrtd]) == (REGISTER_ZERO,) * 4
    assert {(item.state, item.event_count) for item in comparisons} == {(RegisterState.EMPTY, 0)}


@needs_vectors
def test_the_recorded_log_of_a_real_quote_explains_its_registers() -> None:
    events = parse_ccel_untrusted(vector("ccel", "google-cos113.ccel_data.bin"))
    quote = json.loads(vector("real", "google-cos113", "parsed.json"))
    verified = verify_event_log(events, quoted_rtmrs(quote), relied_on={0, 1, 2})

    assert [item.state for item in verified.comparisons[:3]] == [RegisterState.REPLAYED] * 3
    assert len(verified.events) == len(events)


@needs_vectors
def test_an_altered_log_of_a_real_quote_is_refused() -> None:
    events = parse_ccel_untrusted(vector("ccel", "cos113-dupe-separator.ccel_data.bin"))
    rtmrs = quoted_rtmrs(json.loads(vector("real", "google-cos113", "parsed.json")))
    states = [item.state for item in compare(events, rtmrs)]

    with pytest.raises(AppraisalError) as caught:
        verify_event_log(events, rtmrs, relied_on={0, 1, 2})
    assert caught.value.reason == "event-log-contradicts-quote"
    assert caught.value.values["register"] == "rtmr0"
    assert states[:3] == [RegisterState.CONTRADICTED] * 2 + [RegisterState.REPLAYED]


def quoted_rtmrs(parsed: dict[str, object]) -> tuple[bytes, bytes, bytes, bytes]:
    """RTMR0 to RTMR3 of a vector's parsed.json, whatever its nesting."""
    found: dict[str, bytes] = {}

    def walk(value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key in ("rtmr0", "rtmr1", "rtmr2", "rtmr3"):
                    found[key] = bytes.fromhex(str(inner))
                walk(inner)

    walk(parsed)
    return found["rtmr0"], found["rtmr1"], found["rtmr2"], found["rtmr3"]


DSTACK_VECTORS = sorted(path.parent.name for path in VECTORS.glob("real/*/event_log.json"))


@needs_vectors
@pytest.mark.parametrize("name", DSTACK_VECTORS)
def test_a_dstack_log_replays_to_all_four_registers_of_its_real_quote(name: str) -> None:
    events = import_dstack_log_untrusted(vector("real", name, "event_log.json"))
    rtmrs = quoted_rtmrs(json.loads(vector("real", name, "parsed.json")))
    verified = verify_event_log(events, rtmrs, relied_on={0, 1, 2, 3})
    of_rtmr3 = [item for item in verified.events if item.event.register == 3]

    assert all(item.vouched.coverage is Coverage.WHOLE for item in of_rtmr3)
    assert "compose-hash" in [item.event.name for item in of_rtmr3]


# ---- comparison with the quote ---------------------------------------------------------------------


def test_a_zero_register_without_events_is_explained() -> None:
    verified = verify_event_log((), (REGISTER_ZERO,) * 4, relied_on={0, 1, 2, 3})

    assert {item.state for item in verified.comparisons} == {RegisterState.EMPTY}


def test_a_non_zero_register_without_events_fails_when_it_is_relied_on() -> None:
    rtmrs = (REGISTER_ZERO, REGISTER_ZERO, REGISTER_ZERO, b"\x01" * 48)

    with pytest.raises(AppraisalError) as caught:
        verify_event_log((), rtmrs, relied_on={3})
    assert caught.value.reason == "event-log-register-unexplained"
    assert verify_event_log((), rtmrs, relied_on={0}).comparisons[3].explained is False


def test_events_of_an_unexplained_register_are_not_handed_out() -> None:
    good = replay(RUNTIME)
    bad = (*good[:3], b"\x01" * 48)

    assert verify_event_log(RUNTIME, good, relied_on=()).runtime_payloads("image") == (b"v1",)
    assert verify_event_log(RUNTIME, bad, relied_on=()).runtime_payloads("image") == ()


def test_events_on_a_register_that_is_zero_in_the_quote_contradict_it() -> None:
    with pytest.raises(AppraisalError) as caught:
        verify_event_log(RUNTIME, (REGISTER_ZERO,) * 4, relied_on={3})
    assert caught.value.reason == "event-log-contradicts-quote"


@given(st.integers(0, 3), st.integers(0, 47), st.integers(1, 255))
def test_any_change_of_a_quoted_register_that_is_relied_on_is_refused(
    register: int, position: int, change: int
) -> None:
    rtmrs = [bytearray(value) for value in replay((*BOOT, *RUNTIME))]
    rtmrs[register][position] ^= change
    quoted = tuple(bytes(value) for value in rtmrs)

    with pytest.raises(AppraisalError):
        verify_event_log((*BOOT, *RUNTIME), quoted, relied_on={0, 1, 2, 3})  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["drop", "double", "swap", "move"])
def test_a_log_with_an_event_dropped_doubled_swapped_or_moved_is_refused(change: str) -> None:
    events = [*BOOT, *RUNTIME]
    rtmrs = replay(events)
    match change:
        case "drop":
            del events[0]
        case "double":
            events.append(events[-1])
        case "swap":
            events[-1], events[-2] = events[-2], events[-1]
        case _:
            events[0] = replace(events[0], register=0)

    with pytest.raises(AppraisalError):
        verify_event_log(events, rtmrs, relied_on={0, 1, 2, 3})


def test_relying_on_a_register_that_does_not_exist_is_our_own_bug() -> None:
    with pytest.raises(ValueError, match="no such RTMR"):
        verify_event_log((), (REGISTER_ZERO,) * 4, relied_on={4})
