"""Quotes: every layout in both directions, every truncation, any bytes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import MalformedError
from attestation.quote.codec import (
    BODY_TD_15_EXTENDED,
    QUOTE_BYTES_MAX,
    TEE_TDX,
    QuoteHeader,
    TDReport,
    encode_enclave_report,
    encode_quote,
    encode_signed_range,
    encode_td_report,
    parse_body_untrusted,
    parse_quote_untrusted,
)
from enclave.mock.td import TDSettings
from tests.support import evidence
from tests.support.vectors import needs_vectors, real_cases, synthetic_cases


def _encode(quote) -> bytes:
    data = quote.signature_data
    return encode_quote(
        encode_signed_range(quote.header, quote.body),
        signature=data.signature,
        attestation_key=data.attestation_key,
        qe_report=encode_enclave_report(data.qe_report),
        qe_report_signature=data.qe_report_signature,
        qe_auth_data=data.qe_auth_data,
        certification_type=data.certification_type,
        certification_data=data.certification_data,
    )


@needs_vectors
@pytest.mark.parametrize(
    "case", [case for case in real_cases() if case.tee == "TDX"], ids=lambda case: case.name
)
def test_a_real_quote_encodes_back_to_its_own_bytes(case):
    quote = parse_quote_untrusted(case.quote)

    assert case.quote[: len(case.quote) - quote.padding_bytes] == _encode(quote)


@needs_vectors
@pytest.mark.parametrize("case", synthetic_cases()[:8], ids=lambda case: case.name)
def test_every_truncation_is_malformed(case):
    quote = parse_quote_untrusted(case.quote)
    end = len(case.quote) - quote.padding_bytes

    for size in [*range(1400), *range(1400, end, 17), end - 1]:
        if size < end:
            with pytest.raises(MalformedError, match="quote-truncated"):
                parse_quote_untrusted(case.quote[:size])


SETTINGS = {
    "4-td10": TDSettings(),
    "5-td10": TDSettings(quote_version=5),
    "5-td15": TDSettings(quote_version=5, report_version="1.5", tee_tcb_svn_2=bytes(range(16))),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_layout_survives_the_round_trip(name):
    raw = evidence.quote(SETTINGS[name])
    quote = parse_quote_untrusted(raw)

    assert raw == _encode(quote)
    assert quote.body.report_data == evidence.REPORT_DATA
    assert SETTINGS[name].mrtd == quote.body.mrtd
    assert (SETTINGS[name].tee_tcb_svn_2 if name == "5-td15" else None) == quote.body.tee_tcb_svn_2


@pytest.mark.parametrize("name", SETTINGS)
def test_every_truncation_of_every_layout_is_malformed(name):
    raw = evidence.quote(SETTINGS[name])

    for size in range(0, len(raw), 3):
        with pytest.raises(MalformedError, match="quote-truncated"):
            parse_quote_untrusted(raw[:size])


def _extended() -> TDReport:
    report = parse_quote_untrusted(evidence.quote(SETTINGS["5-td15"])).body
    return replace(report, extension=evidence.EXTENSION)


def test_the_extended_report_has_885_bytes_and_comes_back():
    encoded = encode_td_report(_extended())

    assert len(encoded) == 885
    assert _extended() == parse_body_untrusted(encoded, BODY_TD_15_EXTENDED)
    assert encoded[648] == 1
    assert encoded[649:681] == b"\2" * 32
    assert encoded[877:] == (10).to_bytes(8, "little")


def test_a_body_of_another_length_is_malformed():
    with pytest.raises(MalformedError, match="quote-body-size"):
        parse_body_untrusted(bytes(884), BODY_TD_15_EXTENDED)


def test_the_body_descriptor_is_part_of_the_signed_range():
    quote = parse_quote_untrusted(evidence.quote(SETTINGS["5-td15"]))

    assert len(quote.signed) == 702
    assert quote.signed[48:54] == b"\3\0" + (648).to_bytes(4, "little")


def _patched(offset: int, value: bytes, settings: TDSettings | None = None) -> bytes:
    raw = bytearray(evidence.quote(settings))
    raw[offset : offset + len(value)] = value
    return bytes(raw)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(b"\xd2\x84\x43" + bytes(9000), "evidence-dice-unsupported", id="dice-sign1"),
        pytest.param(b"\xd8\x3d\xd2" + bytes(9000), "evidence-dice-unsupported", id="dice-cwt"),
        pytest.param(bytes(QUOTE_BYTES_MAX + 1), "quote-too-large", id="too-large"),
        pytest.param(bytes(100), "quote-version-unsupported", id="version-0"),
    ],
)
def test_foreign_bytes_are_refused_by_name(raw, reason):
    with pytest.raises(MalformedError, match=reason):
        parse_quote_untrusted(raw)


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, b"\6\0", "quote-version-unsupported"),
        (2, b"\3\0", "attestation-key-p384-unsupported"),
        (2, b"\0\0", "attestation-key-type-unsupported"),
        (4, b"\x82\0\0\0", "quote-tee-type"),
        (12, bytes(16), "quote-qe-vendor"),
        (48, b"\0\0", "quote-body-type-unsupported"),
        (48, b"\5\0", "quote-body-type-unsupported"),
        (48, b"\2\0", "quote-body-size"),
        (50, b"\0\0\0\0", "quote-body-size"),
        (50, b"\xff\xff\xff\xff", "quote-body-size"),
    ],
)
def test_a_wrong_header_is_refused(offset, value, reason):
    with pytest.raises(MalformedError, match=reason):
        parse_quote_untrusted(_patched(offset, value, SETTINGS["5-td15"]))


def test_a_td_body_does_not_belong_to_an_sgx_quote():
    raw = _patched(4, bytes(4), SETTINGS["5-td15"])

    with pytest.raises(MalformedError, match="quote-tee-type"):
        parse_quote_untrusted(raw)


def test_an_sgx_body_does_not_belong_to_a_td_quote():
    raw = _patched(48, b"\1\0" + (384).to_bytes(4, "little"), SETTINGS["5-td15"])

    with pytest.raises(MalformedError, match="quote-tee-type"):
        parse_quote_untrusted(raw)


def test_padding_is_tolerated_and_counted():
    quote = parse_quote_untrusted(evidence.quote() + b"\xff" * 100)

    assert quote.padding_bytes == 100


@pytest.mark.parametrize("length", [0, 64, 128, 133, 134, 583])
def test_signature_data_too_short_for_its_parts_is_malformed(length):
    with pytest.raises(MalformedError, match="quote-truncated"):
        parse_quote_untrusted(_patched(632, length.to_bytes(4, "little")))


@pytest.mark.parametrize("size", [0, 447, 449])
def test_a_certification_block_too_short_for_its_parts_is_malformed(size):
    raw = _patched(632, (134 + size).to_bytes(4, "little"))
    raw = raw[:766] + size.to_bytes(4, "little") + raw[770:]

    with pytest.raises(MalformedError, match="quote-truncated"):
        parse_quote_untrusted(raw)


def test_a_huge_signature_length_is_refused_before_it_is_copied():
    with pytest.raises(MalformedError, match="quote-truncated") as refused:
        parse_quote_untrusted(_patched(632, b"\xff\xff\xff\xff"))

    assert refused.value.values["expected_bytes"] == 636 + 0xFFFFFFFF


@given(st.binary(max_size=2000))
def test_any_bytes_are_a_quote_or_malformed(data):
    try:
        parse_quote_untrusted(data)
    except MalformedError:
        return
    raise AssertionError("random bytes parsed")


@given(st.data())
def test_any_mutation_is_a_quote_or_malformed(data):
    raw = bytearray(_BASE)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, 1300) | st.integers(0, len(raw) - 1))
        raw[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for candidate in (bytes(raw), bytes(raw[:cut])):
        try:
            quote = parse_quote_untrusted(candidate)
        except MalformedError:
            continue
        assert quote.signed == candidate[: len(quote.signed)]


_BASE = evidence.quote()


def test_version_four_cannot_carry_what_is_not_in_its_body():
    body = parse_quote_untrusted(evidence.quote(SETTINGS["5-td15"])).body

    with pytest.raises(AssertionError):
        encode_signed_range(QuoteHeader(version=4, tee_type=TEE_TDX), body)
