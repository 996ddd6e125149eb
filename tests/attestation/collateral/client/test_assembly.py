import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.collateral.client.assembly import (
    Collateral,
    cache_key,
    encode_record,
    parse_record_untrusted,
    refresh_at,
    verify_set,
)
from attestation.collateral.client.requests import PckCaKind, Platform, UpdateMode
from attestation.errors import AttestationError, CertificatePathError, MalformedError
from attestation.x509.trust import INTEL_SGX_ROOT
from enclave.mock.authority import MockAuthority
from tests.support.pccs import platform_of

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
AUTHORITY = MockAuthority.create(NOW)
ROOT = AUTHORITY.trust_root
SET = AUTHORITY.endorsements(NOW)
PLATFORM = platform_of(SET)


# ---- what makes a set fit to keep ---------------------------------------------------------------


def test_a_set_is_good_for_the_platform_that_was_asked_for() -> None:
    assert verify_set(PLATFORM, SET, root=ROOT, now=NOW).tcb_info.fmspc == PLATFORM.fmspc


@pytest.mark.parametrize(
    ("platform", "reason"),
    [
        (Platform(fmspc=bytes(6), ca=PckCaKind.PLATFORM), "tcb-info-fmspc"),
        (replace(PLATFORM, ca=PckCaKind.PROCESSOR), "pck-crl-ca"),
    ],
)
def test_a_set_of_another_platform_or_ca_is_refused(platform: Platform, reason: str) -> None:
    with pytest.raises(MalformedError) as caught:
        verify_set(platform, SET, root=ROOT, now=NOW)
    assert caught.value.reason == reason


def test_a_pck_crl_without_its_issuer_is_refused() -> None:
    with pytest.raises(CertificatePathError) as caught:
        verify_set(PLATFORM, replace(SET, pck_crl_issuer_chain=b""), root=ROOT, now=NOW)
    assert caught.value.reason == "pck-ca-chain-length"


def test_a_pck_crl_of_another_authority_is_refused_even_with_its_own_chain() -> None:
    other = MockAuthority.create(NOW).endorsements(NOW)
    swapped = replace(SET, pck_crl=other.pck_crl)
    with_chain = replace(swapped, pck_crl_issuer_chain=other.pck_crl_issuer_chain)

    for forged in (swapped, with_chain):
        with pytest.raises(AttestationError) as caught:
            verify_set(PLATFORM, forged, root=ROOT, now=NOW)
        assert caught.value.reason.startswith(("pck-crl", "pck-ca"))


# ---- when to ask again --------------------------------------------------------------------------


@given(st.integers(0, 40 * 86400), st.floats(0, 1, exclude_max=True))
def test_a_refresh_is_due_within_a_day_and_before_half_of_what_is_left(left_s: int, jitter: float) -> None:
    until = NOW + timedelta(seconds=left_s)
    due = refresh_at(NOW, until, jitter)

    assert NOW <= due <= NOW + min(timedelta(days=1), (until - NOW) / 2)


def test_what_has_expired_is_due_at_once() -> None:
    assert refresh_at(NOW, NOW - timedelta(days=1), 0.5) == NOW


# ---- keys and records ---------------------------------------------------------------------------


def test_what_changes_the_answer_changes_the_key() -> None:
    keys = {
        cache_key(ROOT, PLATFORM, UpdateMode.STANDARD),
        cache_key(INTEL_SGX_ROOT, PLATFORM, UpdateMode.STANDARD),
        cache_key(ROOT, replace(PLATFORM, fmspc=bytes(6)), UpdateMode.STANDARD),
        cache_key(ROOT, replace(PLATFORM, ca=PckCaKind.PROCESSOR), UpdateMode.STANDARD),
        cache_key(ROOT, PLATFORM, UpdateMode.EARLY),
        cache_key(ROOT, PLATFORM, 19),
    }

    assert len(keys) == 6
    assert all(len(key) == 64 and key.isalnum() for key in keys)


RECORD = encode_record(
    Collateral(
        platform=PLATFORM,
        endorsements=SET,
        verified=verify_set(PLATFORM, SET, root=ROOT, now=NOW),
        fetched_at=NOW,
        refresh_at=NOW,
        source="https://pccs.example",
    )
)


def test_a_record_survives_its_encoding() -> None:
    record = parse_record_untrusted(RECORD)

    assert (record.endorsements, record.fetched_at, record.source) == (SET, NOW, "https://pccs.example")


def changed(**changes: object) -> bytes:
    return json.dumps({**json.loads(RECORD), **changes}).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in json.loads(RECORD).items() if key != name}).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cache-record-malformed"),
        (b"[]", "cache-record-malformed"),
        (without("version"), "cache-record-malformed"),
        (without("fetched_at"), "cache-record-malformed"),
        (without("source"), "cache-record-malformed"),
        (without("endorsements"), "cache-record-malformed"),
        (changed(version=2), "cache-record-malformed"),
        (changed(version=True), "cache-record-malformed"),  # equal to 1 in Python
        (changed(version=1.0), "cache-record-malformed"),
        (changed(source=1), "cache-record-malformed"),
        (changed(fetched_at=None), "cache-record-malformed"),
        (changed(fetched_at="yesterday"), "cache-record-malformed"),
        (changed(fetched_at="2026-02-30T00:00:00Z"), "cache-record-malformed"),
        (changed(endorsements=None), "collateral-malformed"),
        (changed(endorsements={}), "collateral-malformed"),
    ],
)
def test_a_malformed_record_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_record_untrusted(data)
    assert caught.value.reason == reason


@given(st.integers(0, len(RECORD) - 1), st.integers(1, 255))
def test_a_changed_byte_in_a_record_raises_only_the_declared_error(at: int, change: int) -> None:
    broken = bytearray(RECORD)
    broken[at] ^= change
    with suppress(MalformedError):
        assert parse_record_untrusted(bytes(broken)).endorsements is not None
