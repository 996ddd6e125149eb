import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.image.errors import MalformedImageError
from enclave.image.tpm_log import parse_tpm_log_untrusted

SHA256, SHA384 = 0x000B, 0x000C
SEPARATOR, ACTION, NO_ACTION = 4, 0x80000007, 3


def spec_id(*algorithms):
    body = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(algorithms))
    for algorithm in algorithms:
        body += struct.pack("<HH", algorithm, {SHA256: 32, SHA384: 48}[algorithm])
    body += b"\0"
    return struct.pack("<II20xI", 0, NO_ACTION, len(body)) + body


def record(pcr, kind, fill, *, algorithms=(SHA384,), data=b"data"):
    digests = b"".join(
        struct.pack("<H", algorithm) + bytes([fill]) * {SHA256: 32, SHA384: 48}[algorithm]
        for algorithm in algorithms
    )
    return struct.pack("<III", pcr, kind, len(algorithms)) + digests + struct.pack("<I", len(data)) + data


def test_pcrs_stand_for_the_registers_that_uefi_maps_them_to():
    log = spec_id(SHA384) + b"".join(record(pcr, ACTION, pcr) for pcr in range(24))

    registers = {event.digest[0]: event.register for event in parse_tpm_log_untrusted(log)}
    assert registers == {
        0: None, 1: 0, 7: 0, **dict.fromkeys(range(2, 7), 1), **dict.fromkeys(range(8, 16), 2),
        **dict.fromkeys(range(16, 24)),
    }  # fmt: skip


def test_one_separator_per_register_is_kept_the_first():
    log = spec_id(SHA384) + record(4, ACTION, 9) + b"".join(record(pcr, SEPARATOR, pcr) for pcr in range(8))

    separators = [(e.register, e.digest[0]) for e in parse_tpm_log_untrusted(log) if e.type == SEPARATOR]
    assert separators == [(None, 0), (0, 1), (1, 2)]


def test_the_sha384_digest_is_taken_wherever_it_stands():
    log = spec_id(SHA256, SHA384) + record(4, ACTION, 7, algorithms=(SHA256, SHA384))

    assert parse_tpm_log_untrusted(log)[0].digest == b"\x07" * 48


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (b"", "tpm-log-truncated"),
        (bytes(100), "tpm-log-kind"),
        (spec_id(SHA256), "tpm-log-no-sha384"),
        (spec_id(SHA256, SHA384) + record(1, ACTION, 1, algorithms=(SHA256,)), "tpm-log-no-sha384"),
        (spec_id(SHA384) + record(1, ACTION, 1)[:-1], "tpm-log-truncated"),
        (spec_id(SHA384) + record(1, ACTION, 1)[:20], "tpm-log-truncated"),
        (spec_id(SHA384) + struct.pack("<III", 1, 1, 9), "tpm-log-digests"),
        (spec_id(SHA384) + struct.pack("<IIIH", 1, 1, 1, 0x99), "tpm-log-digests"),
        (bytes(1024 * 1024 + 1), "tpm-log-too-large"),
    ],
)
def test_logs_without_register_measurements_are_refused(log, reason):
    with pytest.raises(MalformedImageError) as caught:
        parse_tpm_log_untrusted(log)

    assert caught.value.reason == reason


@settings(deadline=None)
@given(st.binary(max_size=120))
def test_foreign_bytes_raise_the_declared_error_only(tail):
    for log in (tail, spec_id(SHA384) + tail):
        with contextlib.suppress(MalformedImageError):
            parse_tpm_log_untrusted(log)
