import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.encoding.canonical import encode
from attestation.errors import MalformedError
from attestation.eventlog.ccel import encode_ccel
from attestation.eventlog.digests import Coverage, vouch
from attestation.eventlog.dstack import LOG_BYTES_MAX as DSTACK_BYTES_MAX
from attestation.eventlog.dstack import import_dstack_log_untrusted
from attestation.eventlog.events import (
    REGISTER_ZERO,
    compare,
    extend,
    replay,
)
from attestation.eventlog.runtime import (
    EVENTS_MAX,
    runtime_digest,
    runtime_event,
    runtime_log_from_value_untrusted,
    runtime_log_to_value,
)
from attestation.eventlog.verify import (
    EVENT_LOG_BYTES_MAX,
    encode_event_log,
    event_log_to_json_value,
    event_to_json_value,
    parse_event_log_untrusted,
    printable_text,
)
from tests.support.eventlogs import BOOT, RUNTIME, sha384

# ---- our own log -----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", ["", "x" * 129, "é" * 65, "a\x1b[2J", "two\nlines"])
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
        ([{**GOOD, "name": "\x1b"}], "runtime-log-invalid"),
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


# ---- dstack ----------------------------------------------------------------------------------------


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


# ---- for people ------------------------------------------------------------------------------------


def test_the_json_form_reports_what_is_proven_and_the_state_of_each_register() -> None:
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
