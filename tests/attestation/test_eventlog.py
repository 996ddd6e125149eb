import hashlib
import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.canonical import encode
from attestation.errors import AppraisalError, MalformedError
from attestation.eventlog import (
    REGISTER_ZERO,
    Event,
    Origin,
    RegisterState,
    compare,
    extend,
    replay,
)
from attestation.eventlog_ccel import encode_ccel, parse_ccel_untrusted
from attestation.eventlog_digests import Coverage, vouch
from attestation.eventlog_dstack import LOG_BYTES_MAX as DSTACK_BYTES_MAX
from attestation.eventlog_dstack import import_dstack_log_untrusted
from attestation.eventlog_evidence import (
    EVENT_LOG_BYTES_MAX,
    encode_event_log,
    event_log_to_json_value,
    event_to_json_value,
    parse_event_log_untrusted,
    printable_text,
    verify_event_log,
)
from attestation.eventlog_runtime import (
    EVENTS_MAX,
    runtime_digest,
    runtime_event,
    runtime_log_from_value_untrusted,
    runtime_log_to_value,
)
from tests.support.vectors import VECTORS, needs_vectors, vector

TYPES = {
    "separator": 4,
    "no-action": 3,
    "tag": 6,
    "config-flags": 0xA,
    "ipl": 0xD,
    "variable": 0x80000001,
    "boot-variable": 0x80000002,
    "application": 0x80000003,
    "gpt": 0x80000006,
    "action": 0x80000007,
    "authority": 0x800000E0,
}


def sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def ccel(kind: str, data: bytes, *, measured: bytes | None = None, register: int = 0) -> Event:
    return Event(
        origin=Origin.CCEL,
        register=register,
        type=TYPES[kind],
        name="",
        digest=sha384(data if measured is None else measured),
        data=data,
    )


BOOT = (
    ccel("action", b"Calling EFI Application from Boot Option", register=1),
    ccel("separator", bytes(4)),
    ccel("application", b"device path", measured=b"the image", register=1),
    ccel("ipl", b"kernel_cmdline: ro quiet\0", measured=b"ro quiet", register=2),
)
RUNTIME = (runtime_event("image", b"v1"), runtime_event("config", b"\x00\x01"))


# ---- replay -------------------------------------------------------------------------------------


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


# ---- comparison with the quote --------------------------------------------------------------------


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


def test_events_on_a_register_that_the_quote_says_is_zero_contradict_it() -> None:
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


# ---- what a digest vouches for -------------------------------------------------------------------


def variable(name: str, data: bytes) -> bytes:
    head = bytes(16) + len(name).to_bytes(8, "little") + len(data).to_bytes(8, "little")
    return head + name.encode("utf-16-le") + data


@pytest.mark.parametrize(
    ("event", "coverage", "covered"),
    [
        (ccel("separator", bytes(4)), Coverage.WHOLE, bytes(4)),
        (ccel("action", b"Exit Boot"), Coverage.WHOLE, b"Exit Boot"),
        (ccel("variable", variable("PK", b"x")), Coverage.WHOLE, variable("PK", b"x")),
        (ccel("authority", variable("SbatLevel", b"x")), Coverage.WHOLE, variable("SbatLevel", b"x")),
        (ccel("boot-variable", variable("Boot0000", b"xyz"), measured=b"xyz"), Coverage.PART, b"xyz"),
        (ccel("boot-variable", variable("Boot0000", b"xyz")), Coverage.WHOLE, variable("Boot0000", b"xyz")),
        (ccel("ipl", b"grub_cmd: boot\0", measured=b"boot"), Coverage.PART, b"boot"),
        (ccel("ipl", b"quiet\0", measured=b"quiet"), Coverage.PART, b"quiet"),
        (ccel("ipl", b"quiet", measured=b"quiet\0"), Coverage.PART, b"quiet\0"),
        (ccel("ipl", b"/vmlinuz\0", measured=b"a file"), Coverage.OPAQUE, None),
        (ccel("tag", b"\1\0\0\0\3\0\0\0abc", measured=b"abc"), Coverage.PART, b"abc"),
        (ccel("tag", b"\1\0\0\0\3\0\0\0abc", measured=b"initrd"), Coverage.OPAQUE, None),
        (ccel("application", b"device path"), Coverage.OPAQUE, None),
        (ccel("config-flags", b"ACPI DATA", measured=b"tables"), Coverage.OPAQUE, None),
        (ccel("no-action", b"note"), Coverage.NOT_EXTENDED, None),
        (runtime_event("n", b"p"), Coverage.WHOLE, b"p"),
    ],
)
def test_the_digest_vouches_for_just_these_bytes(
    event: Event, coverage: Coverage, covered: bytes | None
) -> None:
    vouched = vouch(event)

    assert (vouched.coverage, vouched.covered) == (coverage, covered)


@pytest.mark.parametrize(
    "event",
    [
        ccel("action", b"shown", measured=b"measured"),
        ccel("variable", variable("SecureBoot", b"\1"), measured=variable("SecureBoot", b"\0")),
        ccel("gpt", b"shown", measured=b"measured"),
        ccel("separator", b"\0\0\0\0", measured=b"\xff\xff\xff\xff"),
        ccel("separator", b"other"),
        ccel("ipl", bytes(4)),
        ccel("application", b"path", measured=bytes(4)),
        replace(runtime_event("name", b"p"), name="other"),
    ],
    ids=[
        "action", "secure-boot-shown-on", "gpt", "separator", "separator-of-no-known-value",
        "separator-relabelled-as-text", "separator-relabelled-as-application", "runtime-renamed",
    ],
)  # fmt: skip
def test_data_that_its_digest_denies_is_refused_though_the_replay_is_right(event: Event) -> None:
    rtmrs = replay([event])
    assert event.register is not None
    register = event.register
    # The attack works wherever a verifier only replays: the registers do match.
    assert compare([event], rtmrs)[register].explained

    with pytest.raises(AppraisalError) as caught:
        verify_event_log([event], rtmrs, relied_on={register})
    assert caught.value.reason == "event-log-data-altered"


def test_a_boot_order_with_the_bytes_of_the_error_separator_is_no_separator() -> None:
    event = ccel("boot-variable", variable("BootOrder", b"\1\0\0\0"), measured=b"\1\0\0\0")

    assert verify_event_log([event], replay([event]), relied_on={0}).covered(0) == (b"\1\0\0\0",)


@pytest.mark.parametrize("data", [b"short", bytes(24) + b"\x01" + bytes(7)])
def test_a_boot_variable_that_is_no_variable_is_opaque(data: bytes) -> None:
    assert vouch(ccel("boot-variable", data, measured=b"xyz")).coverage is Coverage.OPAQUE


def test_an_error_separator_is_refused() -> None:
    event = ccel("separator", b"\1\0\0\0")

    with pytest.raises(AppraisalError) as caught:
        verify_event_log([event], replay([event]), relied_on={0})
    assert caught.value.reason == "event-log-error-separator"


def test_only_covered_bytes_are_handed_out_as_proven() -> None:
    verified = verify_event_log(BOOT, replay(BOOT), relied_on={0, 1, 2})

    assert verified.covered(2) == (b"ro quiet",)
    assert verified.covered(1) == (BOOT[0].data,)


@needs_vectors
def test_most_events_of_a_real_boot_are_proven_and_none_is_denied() -> None:
    found = [
        vouch(item).coverage for item in parse_ccel_untrusted(vector("ccel", "google-cos113.ccel_data.bin"))
    ]

    assert found.count(Coverage.MISMATCH) == 0
    assert found.count(Coverage.WHOLE) == 13
    assert found.count(Coverage.PART) == 18
    assert found.count(Coverage.OPAQUE) == 12


# ---- our own log ---------------------------------------------------------------------------------


def test_the_runtime_digest_is_the_documented_formula() -> None:
    expected = sha384(encode(["bondstone/runtime-event/v1", "image", b"v1"]))

    assert runtime_digest("image", b"v1") == expected
    assert extend(REGISTER_ZERO, expected) == replay(RUNTIME[:1])[3]


def test_name_and_payload_cannot_borrow_bytes_of_each_other() -> None:
    assert runtime_digest("a:b", b"c") != runtime_digest("a", b"b:c")


def test_a_runtime_log_survives_its_encoding() -> None:
    assert runtime_log_from_value_untrusted(runtime_log_to_value(RUNTIME)) == RUNTIME
    assert parse_event_log_untrusted(encode_event_log(None, RUNTIME)) == RUNTIME


def test_firmware_comes_before_the_runtime_in_a_log_of_both() -> None:
    data = encode_event_log(encode_ccel(BOOT), RUNTIME)

    assert parse_event_log_untrusted(data) == (*BOOT, *RUNTIME)
    assert parse_event_log_untrusted(encode_ccel(BOOT)) == BOOT


@pytest.mark.parametrize("name", ["", "x" * 129])
def test_a_runtime_event_has_a_name_within_bounds(name: str) -> None:
    with pytest.raises(ValueError, match="runtime event"):
        runtime_event(name, b"")


GOOD = {"name": "n", "payload": b"p", "digest": runtime_digest("n", b"p")}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "runtime-log-invalid"),
        ({}, "runtime-log-invalid"),
        ([None], "runtime-log-invalid"),
        ([{**GOOD, "extra": 1}], "runtime-log-invalid"),
        ([{"name": "n", "payload": b"p"}], "runtime-log-invalid"),
        ([{**GOOD, "name": b"n"}], "runtime-log-invalid"),
        ([{**GOOD, "payload": "p"}], "runtime-log-invalid"),
        ([{**GOOD, "name": ""}], "runtime-log-invalid"),
        ([{**GOOD, "payload": b"q"}], "runtime-log-digest"),
        ([GOOD] * (EVENTS_MAX + 1), "runtime-log-invalid"),
    ],
)
def test_a_malformed_runtime_log_is_refused(value: object, reason: str) -> None:
    with pytest.raises(MalformedError) as caught:
        runtime_log_from_value_untrusted(value)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode([]), "event-log-invalid"),
        (encode({"ccel": None}), "event-log-invalid"),
        (encode({"ccel": 1, "runtime": []}), "event-log-invalid"),
        (encode({"ccel": None, "runtime": [], "x": 1}), "event-log-invalid"),
        (encode({"ccel": b"", "runtime": []}), "ccel-truncated"),
        (b"\xff", "cbor-invalid"),
        (bytes(EVENT_LOG_BYTES_MAX + 1), "event-log-too-large"),
    ],
)
def test_a_malformed_event_log_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_event_log_untrusted(data)
    assert caught.value.reason == reason


@given(st.binary(max_size=300))
def test_an_event_log_of_arbitrary_bytes_raises_only_the_declared_error(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_event_log_untrusted(data)


# ---- dstack --------------------------------------------------------------------------------------


def dstack(**changes: object) -> bytes:
    good = {"imr": 3, "event_type": 0x08000001, "digest": "", "event": "app-id", "event_payload": "00ff"}
    return json.dumps([{**good, **changes}]).encode()


def test_an_empty_digest_of_a_dstack_event_is_recomputed() -> None:
    (event,) = import_dstack_log_untrusted(dstack())

    assert event.digest == sha384(b"\x01\x00\x00\x08:app-id:\x00\xff")
    assert vouch(event).coverage is Coverage.WHOLE


def test_a_dstack_event_with_another_digest_is_shown_as_denied() -> None:
    (event,) = import_dstack_log_untrusted(dstack(digest="00" * 48))

    assert vouch(event).coverage is Coverage.MISMATCH


@pytest.mark.parametrize(
    "data",
    [
        b"{", b"{}", b"[1]", b"[" * 100_000, b"\xff", dstack(imr=4), dstack(imr=-1), dstack(imr=True),
        dstack(event_type=2**32), dstack(event_type="1"), dstack(event=None), dstack(event="\x1b[2J"),
        dstack(event_payload="0"), dstack(event_payload="zz"), dstack(event_payload="00 0"), dstack(event_payload="00  11"), dstack(event_payload="é0"),
        dstack(digest="00"), dstack(event_type=4, digest=""), dstack(more=1),
    ],
)  # fmt: skip
def test_a_malformed_dstack_log_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        import_dstack_log_untrusted(data)
    assert caught.value.reason == "dstack-log-invalid"


def test_the_size_of_a_dstack_log_is_bounded() -> None:
    with pytest.raises(MalformedError) as caught:
        import_dstack_log_untrusted(b" " * (DSTACK_BYTES_MAX + 1))
    assert caught.value.reason == "dstack-log-too-large"


@given(st.binary(max_size=200))
def test_a_dstack_log_of_arbitrary_bytes_raises_only_the_declared_error(data: bytes) -> None:
    with suppress(MalformedError):
        assert all(len(event.digest) == 48 for event in import_dstack_log_untrusted(data))


# ---- for people ----------------------------------------------------------------------------------


def test_the_json_form_says_what_is_proven_and_how_each_register_stands() -> None:
    events = (*BOOT, *RUNTIME)
    value = event_log_to_json_value(events, compare(events, replay(events)))

    assert [item["state"] for item in value["registers"]] == ["replayed"] * 4
    assert json.loads(json.dumps(value)) == value
    assert event_to_json_value(BOOT[3]) == {
        "register": "rtmr2",
        "origin": "ccel",
        "type": "EV_IPL",
        "name": None,
        "digest": sha384(b"ro quiet").hex(),
        "coverage": "part",
        "rule": "the text after its label, without its NUL",
        "text": "kernel_cmdline: ro quiet",
        "data": BOOT[3].data.hex(),
    }


def test_an_unknown_event_type_is_shown_by_its_number() -> None:
    event = replace(BOOT[0], type=0x12345678)

    assert event.type_name == "0x12345678"
    assert vouch(event).coverage is Coverage.OPAQUE


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"grub.cfg\0", "grub.cfg"),
        ("ro quiet".encode("utf-16-le") + b"\0\0", "ro quiet"),
        (b"a\x1b[2Jb", None),
        (b"\x80\x81\x82", None),
        (b"", None),
        (b"\0\0\0\0", None),
    ],
)
def test_text_is_shown_only_where_it_cannot_drive_a_terminal(data: bytes, text: str | None) -> None:
    assert printable_text(data) == text
