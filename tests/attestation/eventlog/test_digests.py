from dataclasses import replace

import pytest

from attestation.errors import AppraisalError
from attestation.eventlog.ccel import parse_ccel_untrusted
from attestation.eventlog.digests import Coverage, vouch
from attestation.eventlog.events import (
    Event,
    compare,
    replay,
)
from attestation.eventlog.runtime import (
    runtime_event,
)
from attestation.eventlog.verify import (
    verify_event_log,
)
from tests.support.eventlogs import BOOT, ccel, variable
from tests.support.vectors import needs_vectors, vector


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
        (ccel("ipl", b"quiet\0"), Coverage.WHOLE, b"quiet\0"),
        (ccel("ipl", b"q\0\0\0", measured=b"q\0"), Coverage.PART, b"q\0"),
        (ccel("ipl", b"q\0", measured=b"q\0\0\0"), Coverage.PART, b"q\0\0\0"),
        (ccel("boot-variable", variable("", b""), measured=b""), Coverage.PART, b""),
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
def test_most_events_of_a_real_boot_are_proven_and_no_event_is_contradicted() -> None:
    found = [
        vouch(item).coverage for item in parse_ccel_untrusted(vector("ccel", "google-cos113.ccel_data.bin"))
    ]

    assert found.count(Coverage.MISMATCH) == 0
    assert found.count(Coverage.WHOLE) == 13
    assert found.count(Coverage.PART) == 18
    assert found.count(Coverage.OPAQUE) == 12
