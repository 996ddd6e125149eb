"""One change to a real quote, its real collateral or the time: refused, each for its own reason.

The rows are those of ``tampering.md`` beside the vectors; the reasons are ours for its strict column.
"""

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from attestation.collateral.endorsements import verify_endorsements
from attestation.errors import AttestationError
from attestation.verdict import verify_report
from attestation.verifier import verify_quote
from attestation.x509.trust import INTEL_SGX_ROOT, TrustRoot
from tests.support.vectors import VECTORS, needs_vectors, real_case, vector

pytestmark = needs_vectors

NOW = datetime.fromtimestamp(1751000000, UTC)
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

# Offsets in the base quote.
LENGTH, SIGNATURE, KEY, OUTER, QE, QE_SIGNATURE, AUTH, INNER = 632, 636, 700, 764, 770, 1154, 1220, 1252

if VECTORS.is_dir():
    BASE = real_case("dcapqvl-tdx_quote-case01")
    BASE_COLLATERAL = json.loads(BASE.collateral)
    TCB_ISSUE = datetime.fromisoformat(json.loads(BASE_COLLATERAL["tcb_info"])["issueDate"])
    TCB_NEXT = datetime.fromisoformat(json.loads(BASE_COLLATERAL["tcb_info"])["nextUpdate"])


def _flip(offset: int, bit: int = 0) -> Callable[[bytearray], None]:
    def change(quote: bytearray) -> None:
        quote[offset] ^= 1 << bit

    return change


def _set(offset: int, value: bytes) -> Callable[[bytearray], None]:
    def change(quote: bytearray) -> None:
        quote[offset : offset + len(value)] = value

    return change


def _length(delta: int) -> Callable[[bytearray], None]:
    def change(quote: bytearray) -> None:
        length = int.from_bytes(quote[LENGTH : LENGTH + 4], "little") + delta
        quote[LENGTH : LENGTH + 4] = length.to_bytes(4, "little")

    return change


def _cut(size: int) -> Callable[[bytearray], None]:
    def change(quote: bytearray) -> None:
        del quote[size:]

    return change


def _negate_s(quote: bytearray) -> None:
    s = int.from_bytes(quote[SIGNATURE + 32 : SIGNATURE + 64], "big")
    quote[SIGNATURE + 32 : SIGNATURE + 64] = (P256_ORDER - s).to_bytes(32, "big")


def _flip_pem(quote: bytearray) -> None:
    """Change the issuer's name inside the PCK certificate, which keeps it well-formed."""
    start = quote.index(b"-----BEGIN CERTIFICATE-----") + 27
    end = quote.index(b"-----END CERTIFICATE-----")
    der = bytearray(base64.b64decode(bytes(quote[start:end])))
    position = der.index(b"Intel SGX PCK Platform CA")
    der[position] ^= 0x20
    body = base64.b64encode(der)
    lines = b"\n" + b"\n".join(body[at : at + 64] for at in range(0, len(body), 64)) + b"\n"
    assert len(lines) == end - start
    quote[start:end] = lines


QUOTE_ROWS: dict[str, tuple[Callable[[bytearray], None], str | None]] = {
    "header.version=3": (_set(0, b"\3\0"), "quote-tee-type"),
    "header.version=6": (_set(0, b"\6\0"), "quote-version-unsupported"),
    "att_key_type=3": (_set(2, b"\3\0"), "attestation-key-p384-unsupported"),
    "tee_type=0": (_set(4, bytes(4)), "quote-truncated"),
    "qe_vendor_id flip": (_flip(12), "quote-qe-vendor"),
    "user_data flip": (_flip(28), "quote-signature"),
    "header reserved/qe_svn flip": (_flip(8), "quote-signature"),
    "tee_tcb_svn flip": (_flip(48), "quote-signature"),
    "mr_td flip": (_flip(48 + 136), "quote-signature"),
    "rtmr3 flip": (_flip(48 + 472), "quote-signature"),
    "report_data flip": (_flip(48 + 520), "quote-signature"),
    "td_attributes debug bit": (_flip(48 + 120), "quote-signature"),
    "sig_data_len+1": (_length(1), "quote-signature-data-trailing"),
    "sig_data_len huge": (_set(LENGTH, b"\xff\xff\xff\xff"), "quote-truncated"),
    "sig_data_len-1": (_length(-1), "quote-truncated"),
    "quote signature flip": (_flip(SIGNATURE + 5), "quote-signature"),
    "attestation key flip": (_flip(KEY + 5), "attestation-key-binding"),
    "outer cert type 5": (_set(OUTER, b"\5\0"), "quote-certification-type"),
    "outer cert type 7": (_set(OUTER, b"\7\0"), "quote-certification-type"),
    "qe report flip (cpusvn)": (_flip(QE), "qe-report-signature"),
    "qe report_data flip": (_flip(QE + 320), "qe-report-signature"),
    "qe report sig flip": (_flip(QE_SIGNATURE + 5), "qe-report-signature"),
    "qe auth data flip": (_flip(AUTH), "attestation-key-binding"),
    "qe report_data upper half flip": (_flip(QE + 352), "qe-report-signature"),
    "inner cert type 4": (_set(INNER, b"\4\0"), "pck-chain-missing"),
    "inner cert type 7": (_set(INNER, b"\7\0"), "quote-certification-data-type"),
    "pck pem flip": (_flip_pem, "pck-issuer-mismatch"),
    "truncated 100": (_cut(100), "quote-truncated"),
    "truncated to header": (_cut(48), "quote-truncated"),
    "empty": (_cut(0), "quote-truncated"),
    "trailing garbage appended": (lambda quote: quote.extend(b"garbage"), None),
    "trailing zeros removed": (_cut(4936), None),
    "quote signature all zero": (_set(SIGNATURE, bytes(64)), "quote-signature"),
    "quote signature high/low-s flip (malleability)": (_negate_s, None),
}

TIME_ROWS: dict[str, tuple[Callable[[], datetime], str | None]] = {
    "now before tcb issue": (lambda: TCB_ISSUE - timedelta(seconds=1), "tcb-info-not-yet-valid"),
    "now = tcb issue": (lambda: TCB_ISSUE, "qe-identity-not-yet-valid"),
    "now after tcb nextUpdate": (lambda: TCB_NEXT + timedelta(seconds=1), "tcb-info-expired"),
    "now after everything 2040": (lambda: datetime(2040, 1, 1, tzinfo=UTC), "root-crl-expired"),
    "now=0": (lambda: datetime.fromtimestamp(0, UTC), "root-crl-not-yet-valid"),
}


def _other(name: str) -> dict[str, str]:
    return json.loads(real_case(name).collateral)


def _take(name: str, *members: str) -> Callable[[dict[str, str]], None]:
    def change(collateral: dict[str, str]) -> None:
        other = _other(name)
        for member in members:
            collateral[member] = other[member]

    return change


def _replace(member: str, value: Callable[[str], str]) -> Callable[[dict[str, str]], None]:
    def change(collateral: dict[str, str]) -> None:
        collateral[member] = value(collateral[member])

    return change


def _flip_last(text: str) -> str:
    return text[:-1] + ("0" if text[-1] != "0" else "1")


def _without_root(chain: str) -> str:
    return chain[: chain.index("-----END CERTIFICATE-----")] + "-----END CERTIFICATE-----\n"


TCB = ("tcb_info", "tcb_info_signature")
COLLATERAL_ROWS: dict[str, tuple[Callable[[dict[str, str]], None], str | None]] = {
    "tcb_info 1 byte change": (
        _replace("tcb_info", lambda text: text.replace('"tcbType":0', '"tcbType":1')),
        "tcb-info-signature",
    ),
    "tcb_info re-serialised with spaces": (
        _replace("tcb_info", lambda text: json.dumps(json.loads(text))),
        "tcb-info-signature",
    ),
    "tcb_info signature flip": (_replace("tcb_info_signature", _flip_last), "tcb-info-signature"),
    "qe_identity change": (
        _replace("qe_identity", lambda text: text.replace('"isvprodid":2', '"isvprodid":1')),
        "qe-identity-signature",
    ),
    "SGX tcb info for TDX quote": (_take("dcapqvl-sgx_quote-case01", *TCB), "tcb-info-not-tdx"),
    "SGX QE identity for TDX quote": (
        _take("dcapqvl-sgx_quote-case01", "qe_identity", "qe_identity_signature"),
        "qe-identity-not-td-qe",
    ),
    "wrong FMSPC tcb info (90c06f)": (
        _take("automata-alibaba-v5-case01", *TCB),
        "tcb-info-fmspc-mismatch",
    ),
    "processor CRL instead of platform CRL": (
        _take("dcapqvl-sgx_quote-case01", "pck_crl"),
        "pck-crl-issuer-mismatch",
    ),
    "root CRL in place of pck CRL": (
        lambda collateral: collateral.update(pck_crl=collateral["root_ca_crl"]),
        "pck-crl-issuer-mismatch",
    ),
    "empty pck CRL": (_replace("pck_crl", lambda _: ""), "pck-crl-malformed"),
    "pck CRL sig flip": (_replace("pck_crl", _flip_last), "pck-crl-signature"),
    "root CRL sig flip": (_replace("root_ca_crl", _flip_last), "root-crl-signature"),
    "expired pck CRL (Mar 2025)": (_take("dcapqvl-tappd-case01", "pck_crl"), "pck-crl-expired"),
    "expired root CRL (Apr 2025)": (
        _take("dcapqvl-tappd-case01", "root_ca_crl"),
        "root-crl-expired",
    ),
    "pck CRL from the future (Oct 2026)": (
        _take("dcapqvl-tdx_quote_td15ex-case01", "pck_crl"),
        "pck-crl-not-yet-valid",
    ),
    "expired TCB signing cert (2018-2025) chain": (
        _take("dcapqvl-tappd-case01", "tcb_info_issuer_chain"),
        "tcb-info-signer-expired",
    ),
    "tcb issuer chain without root": (_replace("tcb_info_issuer_chain", _without_root), None),
    "pck_crl_issuer_chain garbage": (_replace("pck_crl_issuer_chain", lambda _: "garbage"), None),
    "stale (expired) tcb info Mar 2025 replay": (
        _take("dcapqvl-tappd-case01", *TCB),
        "tcb-info-expired",
    ),
}


def _reason(quote: bytes, collateral: bytes, now: datetime, root: TrustRoot = INTEL_SGX_ROOT) -> str | None:
    value = verify_report(quote, collateral, root=root, policy=None, now=now).value
    assert (value["reason"] is None) == value["accepted"]
    return value["reason"]


def test_the_untouched_base_is_accepted():
    assert _reason(BASE.quote, BASE.collateral, NOW) is None


@pytest.mark.parametrize("row", QUOTE_ROWS)
def test_changed_quote(row):
    change, expected = QUOTE_ROWS[row]
    quote = bytearray(BASE.quote)
    change(quote)

    assert quote != BASE.quote
    assert expected == _reason(bytes(quote), BASE.collateral, NOW)


@pytest.mark.parametrize("row", TIME_ROWS)
def test_changed_time(row):
    now, expected = TIME_ROWS[row]

    assert expected == _reason(BASE.quote, BASE.collateral, now())


@pytest.mark.parametrize("row", COLLATERAL_ROWS)
def test_changed_collateral(row):
    change, expected = COLLATERAL_ROWS[row]
    collateral = dict(BASE_COLLATERAL)
    change(collateral)

    assert collateral != BASE_COLLATERAL
    assert expected == _reason(BASE.quote, json.dumps(collateral).encode(), NOW)


def test_wrong_trust_anchor():
    mock = TrustRoot.from_bytes_untrusted(vector("synthetic", "root_ca.der"))

    assert _reason(BASE.quote, BASE.collateral, NOW, mock) == "untrusted-root"


def _rows_of_the_document() -> list[str]:
    text = vector("tampering.md").decode()
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][2:]


def test_every_row_of_the_document_is_tried():
    tried = {*QUOTE_ROWS, *TIME_ROWS, *COLLATERAL_ROWS, "wrong trust anchor (mock root)"}

    assert set() == set(_rows_of_the_document()) - tried


# ---- single bits ----------------------------------------------------------------------------------------

BITS_END = 1300


@pytest.fixture(scope="module")
def endorsements():
    return verify_endorsements(BASE.endorsements, root=INTEL_SGX_ROOT, now=NOW)


def _accepted_flips(endorsements, bits: range) -> list[tuple[int, int]]:
    accepted = []
    for offset in range(BITS_END):
        for bit in bits:
            quote = bytearray(BASE.quote)
            quote[offset] ^= 1 << bit
            with suppress(AttestationError):
                verify_quote(bytes(quote), endorsements, now=NOW)
                accepted.append((offset, bit))
    return accepted


# The lowest and the highest bit of every byte in each run; all eight in the long one.
@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_in_every_byte_is_refused(endorsements, bit):
    assert _accepted_flips(endorsements, range(bit, bit + 1)) == []


@pytest.mark.long
def test_every_flipped_bit_is_refused(endorsements):
    assert _accepted_flips(endorsements, range(8)) == []
