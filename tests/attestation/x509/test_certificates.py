"""Certificates, DER, the PCK extension, and trust roots: what is not exactly right is refused."""

import base64
import hashlib
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from attestation.encoding import der
from attestation.errors import AttestationError, MalformedError, SignatureError, StaleEndorsementsError
from attestation.x509 import certificates
from attestation.x509 import crl as crls
from attestation.x509.certificates import (
    CERTIFICATE_BYTES_MAX,
    PEM_BYTES_MAX,
    load_certificate_untrusted,
    require_ca,
    require_issued_by,
    require_leaf,
    signed_part_untrusted,
    split_pem_untrusted,
)
from attestation.x509.crl import (
    CRL_BYTES_MAX,
    parse_crl_untrusted,
    require_crl_in_window,
    require_crl_signed_by,
    require_not_revoked,
)
from attestation.x509.pck import EXTENSION_BYTES_MAX, SgxType, parse_pck_extension_untrusted
from attestation.x509.trust import INTEL_SGX_ROOT, TrustRoot
from enclave.mock.pki import PCKValues, encode_sgx_extension, make_crl
from tests.support import evidence
from tests.support.certificates import make, usage
from tests.support.evidence import NOW, days, reason_of

ROOT = evidence.authority().root


def _load(signer, role="pck"):
    return load_certificate_untrusted(signer.certificate_der, role=role)


# ---- roots ----------------------------------------------------------------------------------------------


def test_intels_root_is_the_published_one():
    """The numbers are those of the specification, not of our copy."""
    assert len(INTEL_SGX_ROOT.certificate_der) == 659
    assert (
        INTEL_SGX_ROOT.fingerprint.hex() == "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
    )
    assert (
        INTEL_SGX_ROOT.spki_digest.hex() == "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"
    )
    point = INTEL_SGX_ROOT.certificate.public_key.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    assert hashlib.sha384(point).hexdigest().startswith("46e403bd34f05a3f2817ab9badcaacc7ffc98e0f")
    assert not INTEL_SGX_ROOT.mock


def test_a_root_comes_from_pem_or_der_and_every_other_root_is_mock():
    intel_pem = (
        b"-----BEGIN CERTIFICATE-----\n"
        + base64.encodebytes(INTEL_SGX_ROOT.certificate_der)
        + b"-----END CERTIFICATE-----\n"
    )

    assert TrustRoot.from_bytes_untrusted(intel_pem) == INTEL_SGX_ROOT
    assert TrustRoot.from_bytes_untrusted(ROOT.certificate_pem).mock
    assert TrustRoot.from_bytes_untrusted(ROOT.certificate_der).mock


def test_a_mock_root_cannot_claim_to_be_real_nor_the_real_one_to_be_mock():
    with pytest.raises(MalformedError, match="root-mock-flag"):
        TrustRoot(certificate_der=ROOT.certificate_der, mock=False)
    with pytest.raises(MalformedError, match="root-mock-flag"):
        TrustRoot(certificate_der=INTEL_SGX_ROOT.certificate_der, mock=True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        evidence.authority().platform_ca.certificate_der,
        make("leaf", None, key_usage=usage("digital_signature")).certificate_der,
        make("flat", None, ca=True, path_length=0, key_usage=usage("key_cert_sign")).certificate_der,
        make("no usage", None, ca=True, path_length=1).certificate_der,
        ROOT.certificate_pem * 2,
    ],
)
def test_a_certificate_that_is_not_a_self_signed_ca_cannot_be_a_root(data):
    with pytest.raises(MalformedError, match="root-"):
        TrustRoot.from_bytes_untrusted(data)


# ---- PEM ------------------------------------------------------------------------------------------------

PEM = ROOT.certificate_pem


@pytest.mark.parametrize(
    "text",
    [
        PEM,
        PEM + b"\0",
        PEM.ljust(PEM_BYTES_MAX),
        PEM.replace(b"\n", b"\r\n"),
        b"text before\n" + PEM + b"text after",
        b"\n" + PEM,
    ],
)
def test_pem_is_read_leniently_around_its_blocks(text):
    assert split_pem_untrusted(text, role="pck", count_max=3) == (ROOT.certificate_der,)


@pytest.mark.parametrize(
    "text",
    [
        PEM[:-10],
        PEM.replace(b"-----END", b"-----FIN"),
        PEM.replace(b"MII", b"M!I", 1),
        PEM.replace(b"MII", b"M I", 1),
        PEM.replace(b"MII", b"MI", 1),
        PEM.replace(b"MII", b"MII!!!!", 1),
        PEM.replace(b"MII", b"MII    ", 1),
        b"-----BEGIN CERTIFICATE-----\nAAAA====\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nAAB=\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----AAAA-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----",
        PEM + PEM.replace(b"CERTIFICATE", b"PRIVATE KEY"),
        PEM + PEM.replace(b"-----BEGIN", b"-+---BEGIN"),
        PEM * 4,
        PEM.ljust(PEM_BYTES_MAX + 1),
    ],
)
def test_pem_is_read_strictly_inside_its_blocks(text):
    with pytest.raises(MalformedError, match="pck-chain-malformed"):
        split_pem_untrusted(text, role="pck", count_max=3)


OTHER_PEM = evidence.authority().platform_ca.certificate_pem
END, BEGIN = b"-----END CERTIFICATE-----", b"-----BEGIN CERTIFICATE-----"


@pytest.mark.parametrize(
    "between",
    [
        END + BEGIN[3:],  # they share dashes
        END + BEGIN[1:],
        END + BEGIN,
        END + b" " + BEGIN,
        END + b"\r" + BEGIN,
        END + b"\n " + BEGIN,
        END + b"\n# " + BEGIN,
        END + b" # text\n" + BEGIN,
        END + b"\n" + BEGIN + b" text",
        END + b"\n" + BEGIN + b"\n" + BEGIN,
        END + b"\n" + END + b"\n" + BEGIN,
    ],
)
def test_two_certificates_whose_boundaries_share_a_line_are_not_read_as_two(between):
    chain = PEM.rstrip(b"\n").removesuffix(END) + between + OTHER_PEM.removeprefix(BEGIN)

    with pytest.raises(MalformedError, match="pck-chain-malformed"):
        split_pem_untrusted(chain, role="pck", count_max=3)
    # With a line for each boundary they are two.
    chain = chain.replace(between, END + b"\n" + BEGIN)
    assert len(split_pem_untrusted(chain, role="pck", count_max=3)) == 2


# ---- certificates ---------------------------------------------------------------------------------------


def test_only_p256_with_sha256_is_accepted():
    for certificate in (
        make("a", None, key=ec.generate_private_key(ec.SECP384R1())),
        make("b", None, key=rsa.generate_private_key(65537, 2048)),
        make("c", None, algorithm=hashes.SHA384()),
    ):
        with pytest.raises(MalformedError, match="pck-algorithm"):
            _load(certificate)


def test_an_unknown_critical_extension_is_refused():
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
    constraints = x509.NameConstraints([x509.DNSName("x")], None)

    for value in (unknown, constraints):
        with pytest.raises(MalformedError, match="pck-critical-extension"):
            _load(make("a", None, extension=(value, True)))
    assert _load(make("a", None, extension=(unknown, False))).common_name == "a"


def _padded(size: int) -> bytes:
    """Return a certificate of exactly this many bytes; what fills it is an unknown extension."""
    content = 7000
    # An ECDSA signature in DER has 70 to 72 bytes, so the right size is met after a few attempts.
    for _ in range(200):
        value = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(content))
        data = make("a", None, extension=(value, False)).certificate_der
        if len(data) == size:
            return data
        content += size - len(data)
    raise AssertionError(f"no certificate of {size} bytes")


def test_a_certificate_may_have_eight_kibibytes_and_no_more():
    assert load_certificate_untrusted(_padded(CERTIFICATE_BYTES_MAX), role="pck").common_name == "a"
    with pytest.raises(MalformedError, match="a certificate of 8193 bytes"):
        load_certificate_untrusted(_padded(CERTIFICATE_BYTES_MAX + 1), role="pck")


def test_an_unknown_extension_is_not_taken_for_intels():
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.840.113741.1.13.2"), b"\5\0")
    parsed = _load(make("a", None, extension=(unknown, False)))

    assert parsed.sgx_extension is None


@pytest.mark.parametrize("data", [b"", b"\x30", b"\x30\x80\x00\x00", b"\x30\x81\x03\x02\x01\x00"])
def test_what_is_signed_is_found_in_der_only(data):
    with pytest.raises(MalformedError, match="pck-malformed"):
        signed_part_untrusted(data, role="pck", algorithm_index=2)


@pytest.mark.parametrize("data", [b"", b"\x30\x00", bytes(CERTIFICATE_BYTES_MAX + 1), PEM])
def test_bytes_that_are_no_certificate_are_malformed(data):
    with pytest.raises(MalformedError, match="pck-malformed"):
        load_certificate_untrusted(data, role="pck")


def test_a_path_length_must_leave_room_for_what_is_below():
    long_enough = make("a", None, ca=True, path_length=1, key_usage=usage("key_cert_sign"))
    unlimited = make("a", None, ca=True, key_usage=usage("key_cert_sign"))
    too_short = make("a", None, ca=True, path_length=0, key_usage=usage("key_cert_sign"))

    require_ca(_load(long_enough), intermediates_below=1)
    require_ca(_load(unlimited), intermediates_below=1)
    require_ca(_load(too_short), intermediates_below=0)
    with pytest.raises(AttestationError, match="pck-not-ca"):
        require_ca(_load(too_short), intermediates_below=1)


@pytest.mark.parametrize(
    "signer",
    [
        make("a", None, ca=True, key_usage=usage("digital_signature")),
        make("a", None, key_usage=usage("crl_sign")),
        make("a", None, key_usage=usage("digital_signature", "key_cert_sign")),
        make("a", None),
        make("a", None, ca=None, key_usage=usage("digital_signature")),
    ],
)
def test_a_certificate_that_may_not_sign_is_not_a_leaf(signer):
    with pytest.raises(AttestationError, match="pck-not-leaf"):
        require_leaf(_load(signer))


def test_an_issuer_is_known_by_name_and_by_key():
    issuer, other = make("CA", None, ca=True), make("CA", None, ca=True)
    stranger = make("Stranger", None, ca=True)
    leaf = make("leaf", issuer)

    require_issued_by(_load(leaf), _load(issuer, "pck-ca"))
    with pytest.raises(SignatureError, match="pck-signature"):
        require_issued_by(_load(leaf), _load(other, "pck-ca"))
    with pytest.raises(AttestationError, match="pck-issuer-mismatch"):
        require_issued_by(_load(leaf), _load(stranger, "pck-ca"))


def _count_signatures(monkeypatch, module):
    real, checked = module.is_der_signature_valid, []

    def counted(*arguments):
        checked.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(module, "is_der_signature_valid", counted)
    return checked


def test_a_link_that_passed_is_verified_once_and_one_that_did_not_each_time(monkeypatch):
    checked = _count_signatures(monkeypatch, certificates)
    issuer, other = make("CA", None, ca=True), make("CA", None, ca=True)
    leaf = make("leaf", issuer)

    for _ in range(3):
        require_issued_by(_load(leaf), _load(issuer, "pck-ca"))
    assert len(checked) == 1
    for _ in range(3):
        with pytest.raises(SignatureError, match="pck-signature"):
            require_issued_by(_load(leaf), _load(other, "pck-ca"))
    assert len(checked) == 4


def test_a_crl_that_passed_is_verified_once_and_one_with_other_bytes_again(monkeypatch):
    checked = _count_signatures(monkeypatch, crls)
    data, issuer = make_crl(ROOT, (1, 2, 3), NOW - days(1), NOW + days(1)), _load(ROOT, "root")

    for _ in range(3):
        require_crl_signed_by(parse_crl_untrusted(data, role="pck-crl"), issuer)
    assert len(checked) == 1
    for _ in range(2):
        with pytest.raises(AttestationError, match="pck-crl-signature"):
            require_crl_signed_by(
                parse_crl_untrusted(data[:-1] + bytes([data[-1] ^ 1]), role="pck-crl"), issuer
            )
    assert len(checked) == 3
    newer = make_crl(ROOT, (1, 2, 3, 4), NOW - days(1), NOW + days(1))
    require_crl_signed_by(parse_crl_untrusted(newer, role="pck-crl"), issuer)
    assert len(checked) == 4


ECDSA_SHA256 = bytes.fromhex("06082a8648ce3d040302")


# ecdsa-with-SHA384 instead of SHA256, and an algorithm that does not exist; inside, outside, and both.
@pytest.mark.parametrize("number", [3, 0x7F])
@pytest.mark.parametrize("where", [(0,), (1,), (0, 1)])
def test_another_signature_algorithm_is_refused_inside_and_outside(number, where):
    crl = make_crl(evidence.authority().platform_ca, (), NOW - days(1), NOW + days(1))
    for data, load in (
        (crl, lambda data: parse_crl_untrusted(data, role="pck")),
        (ROOT.certificate_der, lambda data: load_certificate_untrusted(data, role="pck")),
    ):
        parts = data.split(ECDSA_SHA256)
        assert len(parts) == 3
        ids = [ECDSA_SHA256[:-1] + bytes([number]) if at in where else ECDSA_SHA256 for at in (0, 1)]

        # Some of these the library refuses already.
        with pytest.raises(MalformedError, match=r"pck-(algorithm|malformed)"):
            load(parts[0] + ids[0] + parts[1] + ids[1] + parts[2])


@given(st.integers(0, len(ROOT.certificate_der) - 1), st.integers(0, 255))
def test_a_changed_certificate_is_a_certificate_or_malformed(position, value):
    data = bytearray(ROOT.certificate_der)
    data[position] = value

    def check() -> None:
        certificate = load_certificate_untrusted(bytes(data), role="pck")
        require_issued_by(certificate, _load(ROOT, "root"))

    reason = reason_of(check, AttestationError)
    assert reason is None or reason.startswith("pck-")


_CRL = make_crl(ROOT, (1, 2, 3), NOW - days(1), NOW + days(1))


@given(st.integers(0, len(_CRL) - 1), st.integers(0, 255))
def test_a_changed_crl_is_a_crl_or_malformed(position, value):
    data = bytearray(_CRL)
    data[position] = value

    def check() -> None:
        crl = parse_crl_untrusted(bytes(data), role="pck-crl")
        require_not_revoked(_load(ROOT, "root"), crl)
        require_crl_signed_by(crl, _load(ROOT, "root"))

    reason = reason_of(check, AttestationError)
    assert reason is None or reason.startswith("pck-crl-")


@pytest.mark.parametrize("size", [0, CRL_BYTES_MAX + 1])
def test_a_crl_of_an_impossible_size_is_refused_before_it_is_parsed(size):
    with pytest.raises(MalformedError, match=f"a CRL of {size} bytes"):
        parse_crl_untrusted(bytes(size), role="pck-crl")


def test_a_broken_name_is_found_when_the_crl_is_parsed():
    """The library parses names lazily; a broken one must not escape in the middle of a verdict."""
    tag = _CRL.index(b"\x0c")
    broken = _CRL[:tag] + b"\x16\x01\xff" + _CRL[tag + 3 :]

    with pytest.raises(MalformedError, match="pck-crl-malformed"):
        parse_crl_untrusted(broken, role="pck-crl")


# ---- the PCK extension ----------------------------------------------------------------------------------

VALUES = PCKValues(sgx_svns=tuple(range(120, 136)), pce_svn=0xFFFE)
EXTENSION = encode_sgx_extension(VALUES)


def test_every_field_of_the_extension_is_read():
    extension = parse_pck_extension_untrusted(EXTENSION)

    assert extension.tcb_components == VALUES.sgx_svns
    assert extension.pce_svn == 0xFFFE
    assert extension.cpu_svn == bytes(VALUES.sgx_svns)
    assert (extension.ppid, extension.pce_id) == (VALUES.ppid, VALUES.pce_id)
    assert extension.fmspc == VALUES.fmspc
    assert extension.sgx_type is SgxType.SCALABLE
    assert extension.platform_instance_id == VALUES.platform_instance_id
    assert extension.configuration.dynamic_platform is True
    assert extension.configuration.cached_keys is True
    assert extension.configuration.smt_enabled is True


def _tlv(tag: int, content: bytes) -> bytes:
    length = len(content)
    head = bytes([length]) if length < 0x80 else b"\x82" + length.to_bytes(2, "big")
    return bytes([tag]) + head + content


ARC = bytes.fromhex("2a864886f84d010d01")


def _member(suffix: bytes, value: bytes) -> bytes:
    return _tlv(0x30, _tlv(0x06, ARC + suffix) + value)


def _members(sequence: bytes) -> list[bytes]:
    content = der.only_untrusted(sequence, der.SEQUENCE)
    return [_tlv(tag, item) for tag, item in der.elements_untrusted(content)]


def _rebuilt(change) -> bytes:
    members = _members(EXTENSION)
    change(members)
    return _tlv(0x30, b"".join(members))


def _put(index: int, member: bytes):
    return _rebuilt(lambda members: members.__setitem__(index, member))


def _tcb(change) -> bytes:
    """Return the extension with its TCB sequence changed."""
    _, content = next(iter(der.elements_untrusted(_members(EXTENSION)[1])))
    _, _, end = der.read_untrusted(content, 0)
    members = _members(content[end:])
    change(members)
    return _put(1, _member(b"\2", _tlv(0x30, b"".join(members))))


def _tcb_put(index: int, number: int, value: bytes) -> bytes:
    return _tcb(lambda members: members.__setitem__(index, _member(bytes([2, number]), value)))


def test_the_rebuilt_extension_is_the_same():
    assert _rebuilt(lambda _: None) == EXTENSION
    assert _tcb(lambda _: None) == EXTENSION


def test_platform_ca_fields_may_be_absent_and_unknown_ones_present():
    short = parse_pck_extension_untrusted(_rebuilt(lambda members: members.__delitem__(slice(5, 7))))
    longer = parse_pck_extension_untrusted(
        _rebuilt(lambda members: members.append(_member(b"\x08", b"\5\0")))
    )

    assert short.platform_instance_id is None
    assert short.configuration is None
    assert longer == parse_pck_extension_untrusted(EXTENSION)


@pytest.mark.parametrize("sgx_type", list(SgxType))
def test_every_kind_of_platform_is_known_by_its_number(sgx_type):
    extension = parse_pck_extension_untrusted(_put(4, _member(b"\5", b"\x0a\1" + bytes([sgx_type]))))

    assert extension.sgx_type is sgx_type
    assert [item.value for item in SgxType] == [0, 1, 2]


def test_the_largest_svns_are_read():
    largest = _tcb(
        lambda members: members.__setitem__(
            slice(0, 17),
            [_member(bytes([2, number]), b"\2\2\0\xff") for number in range(1, 17)]
            + [_member(b"\2\x11", b"\2\3\0\xff\xff")],
        )
    )
    extension = parse_pck_extension_untrusted(largest)

    assert extension.tcb_components == (255,) * 16
    assert extension.pce_svn == 0xFFFF


def test_an_extension_may_have_four_kibibytes_and_no_more():
    def filled(size: int) -> bytes:
        fill = _member(b"\x08", _tlv(0x04, bytes(size)))
        return _rebuilt(lambda members: members.append(fill))

    content = 3000 + EXTENSION_BYTES_MAX - len(filled(3000))
    assert len(filled(content)) == EXTENSION_BYTES_MAX
    assert parse_pck_extension_untrusted(filled(content)).fmspc == VALUES.fmspc
    with pytest.raises(MalformedError, match="4097 bytes, at most 4096"):
        parse_pck_extension_untrusted(filled(content + 1))


def test_the_refusal_of_an_extension_names_the_part():
    with pytest.raises(MalformedError) as caught:
        parse_pck_extension_untrusted(_tcb(lambda members: members.__delitem__(0)))

    assert caught.value.message == "the PCK certificate's SGX extension: TCB component 1 is missing"


def test_configuration_flags_may_be_absent():
    flags = _member(b"\7", _tlv(0x30, _member(b"\7\1", b"\1\1\0")))
    configuration = parse_pck_extension_untrusted(_put(6, flags)).configuration

    assert configuration.dynamic_platform is False
    assert configuration.cached_keys is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(EXTENSION + b"\0", id="trailing"),
        pytest.param(b"\x31" + EXTENSION[1:], id="not-a-sequence"),
        pytest.param(bytes(EXTENSION_BYTES_MAX + 1), id="too-large"),
        pytest.param(_rebuilt(lambda m: m.append(m[0])), id="duplicate"),
        pytest.param(_rebuilt(lambda m: m.__delitem__(3)), id="fmspc-missing"),
        pytest.param(_put(3, _member(b"\4", b"\4\5aaaaa")), id="fmspc-short"),
        pytest.param(_put(3, _member(b"\4", b"\2\1\1")), id="fmspc-of-another-type"),
        pytest.param(_put(3, _member(b"\4", b"\x0c\6aaaaaa")), id="fmspc-as-text"),
        pytest.param(_put(3, b"\x31" + _member(b"\4", b"\4\6aaaaaa")[1:]), id="member-is-a-set"),
        pytest.param(_put(3, _member(b"\4", b"\4\6aaaaaa\5\0")), id="two-values"),
        pytest.param(_put(3, b"\5\0"), id="member-not-a-sequence"),
        pytest.param(_put(3, _tlv(0x30, b"\4\1a\4\1a")), id="member-without-id"),
        pytest.param(_put(3, _tlv(0x30, b"")), id="member-empty"),
        pytest.param(_put(4, _member(b"\5", b"\x0a\1\3")), id="sgx-type-unknown"),
        pytest.param(_put(4, _member(b"\5", b"\x0a\0")), id="sgx-type-empty"),
        pytest.param(_put(6, _member(b"\7", _tlv(0x30, _member(b"\7\1", b"\1\1\1")))), id="flag-1"),
        pytest.param(_put(6, _member(b"\7", _tlv(0x30, _member(b"\7\1", b"\2\1\1")))), id="flag-int"),
        pytest.param(_tcb(lambda m: m.__delitem__(15)), id="component-missing"),
        pytest.param(_tcb(lambda m: m.append(m[3])), id="component-twice"),
        pytest.param(_tcb_put(0, 1, b"\2\2\1\0"), id="component-256"),
        pytest.param(_tcb_put(0, 1, b"\2\1\xff"), id="component-negative"),
        pytest.param(_tcb_put(0, 1, b"\2\2\0\1"), id="component-not-minimal"),
        pytest.param(_tcb_put(0, 1, b"\2\x0a" + b"\1" * 10), id="component-huge"),
        pytest.param(_tcb_put(16, 17, b"\2\3\1\0\0"), id="pcesvn-65536"),
        pytest.param(_tcb_put(17, 18, b"\4\1\0"), id="cpusvn-short"),
    ],
)
def test_an_extension_that_breaks_its_form_is_malformed(data):
    with pytest.raises(MalformedError, match="pck-extension-malformed"):
        parse_pck_extension_untrusted(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x30",
        b"\x30\x80",
        b"\x30\x84\0\0\0\1a",
        b"\x30\x81\x01a",
        b"\x30\x82\x00\x81" + bytes(129),
        b"\x30\x82\x01",
        b"\x1f\x01\x00",
        b"\x04\x05abc",
    ],
)
def test_ber_that_is_not_der_is_malformed(data):
    with pytest.raises(MalformedError, match="der-malformed"):
        der.read_untrusted(data, 0)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_extension_or_malformed(data):
    with pytest.raises(MalformedError):
        parse_pck_extension_untrusted(data)


@given(st.integers(0, len(EXTENSION) - 1), st.integers(0, 255))
def test_a_changed_extension_is_an_extension_or_malformed(position, value):
    data = bytearray(EXTENSION)
    data[position] = value
    reason = reason_of(lambda: parse_pck_extension_untrusted(bytes(data)), MalformedError)

    assert reason in {None, "pck-extension-malformed"}


# ---- one form of a signature ----------------------------------------------------------------------------


def _even(made):
    """Return DER whose signature ends with a zero bit, so that the library takes it as one bit shorter."""
    return next(data for data in (made() for _ in range(200)) if data[-1] % 2 == 0)


def _one_bit_shorter(data: bytes, signature: bytes) -> bytes:
    at = data.rindex(signature) - 1
    assert data[at] == 0
    return data[:at] + b"\x01" + data[at + 1 :]


def test_a_certificate_whose_signature_is_one_bit_shorter_is_another_certificate_and_refused():
    data = _even(lambda: make("mock", ROOT, key_usage=usage("digital_signature")).certificate_der)
    edited = _one_bit_shorter(data, x509.load_der_x509_certificate(data).signature)

    # To the library the two are signed alike: without a look at the unused bits both would be accepted.
    assert x509.load_der_x509_certificate(edited).signature == x509.load_der_x509_certificate(data).signature
    assert load_certificate_untrusted(data, role="pck").signed
    with pytest.raises(MalformedError, match="pck-malformed"):
        load_certificate_untrusted(edited, role="pck")


def _crl_of(**changes):
    """A CRL of the root's, with one entry; ``changes`` add extensions to it or to the entry."""
    key = ROOT.certificate.public_key()
    entry = x509.RevokedCertificateBuilder().serial_number(77).revocation_date(NOW)
    for extension, critical in changes.get("entry", ()):
        entry = entry.add_extension(extension, critical=critical)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ROOT.certificate.subject)
        .last_update(NOW)
        .next_update(NOW + days(1))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key), critical=False)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_revoked_certificate(entry.build())
    )
    for extension, critical in changes.get("crl", ()):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(ROOT.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_a_crl_whose_signature_is_one_bit_shorter_is_another_crl_and_refused():
    data = _even(_crl_of)
    edited = _one_bit_shorter(data, x509.load_der_x509_crl(data).signature)

    assert parse_crl_untrusted(data, role="root-crl").number == 1
    with pytest.raises(MalformedError, match="root-crl-malformed"):
        parse_crl_untrusted(edited, role="root-crl")


@pytest.mark.parametrize("unused", [b"", b"\x01", b"\x07", b"\x08", b"\xff"])
def test_a_bit_string_of_octets_has_no_unused_bits(unused):
    assert der.octets_untrusted(b"\0abc") == b"abc"
    with pytest.raises(MalformedError, match="der-malformed"):
        der.octets_untrusted(unused + b"\x80" if unused else b"")


def test_nothing_follows_the_signature_inside_of_a_certificate():
    data = make("mock", ROOT, key_usage=usage("digital_signature")).certificate_der
    content = der.only_untrusted(data, der.SEQUENCE) + b"\x05\x00"
    longer = b"\x30\x82" + len(content).to_bytes(2, "big") + content

    with pytest.raises(MalformedError, match="pck-malformed"):
        signed_part_untrusted(longer, role="pck", algorithm_index=2)


# ---- lists that speak of less than everything -----------------------------------------------------------

POINT = x509.IssuingDistributionPoint(
    full_name=[x509.UniformResourceIdentifier("https://crl.example/a")],
    relative_name=None,
    only_contains_user_certs=False,
    only_contains_ca_certs=False,
    only_some_reasons=None,
    indirect_crl=False,
    only_contains_attribute_certs=False,
)
INDIRECT = x509.CertificateIssuer([x509.DirectoryName(x509.Name([]))])
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")


@pytest.mark.parametrize("critical", [True, False])
@pytest.mark.parametrize("extension", [x509.DeltaCRLIndicator(1), POINT], ids=["delta", "distribution point"])
def test_a_list_of_changes_or_of_a_part_is_not_taken_as_complete(extension, critical):
    with pytest.raises(MalformedError, match="root-crl-malformed") as caught:
        parse_crl_untrusted(_crl_of(crl=[(extension, critical)]), role="root-crl")

    assert caught.value.values["extensions"] == [extension.oid.dotted_string]


@pytest.mark.parametrize(
    ("extension", "critical"),
    [
        (UNKNOWN, True),
        (x509.CRLReason(x509.ReasonFlags.key_compromise), True),
        (INDIRECT, True),
        (INDIRECT, False),
    ],
    ids=["unknown", "reason", "issuer", "issuer, not critical"],
)
def test_an_entry_that_has_to_be_understood_makes_its_list_unusable(extension, critical):
    with pytest.raises(MalformedError, match="root-crl-malformed") as caught:
        parse_crl_untrusted(_crl_of(entry=[(extension, critical)]), role="root-crl")

    assert caught.value.values["extensions"] == [extension.oid.dotted_string]


@pytest.mark.parametrize("extension", [UNKNOWN, x509.CRLReason(x509.ReasonFlags.key_compromise)])
def test_an_entry_with_an_extension_that_may_be_ignored_revokes(extension):
    data = _crl_of(entry=[(extension, False)])

    assert parse_crl_untrusted(data, role="root-crl").parsed.get_revoked_certificate_by_serial_number(77)


# ---- the bounds of a CRL --------------------------------------------------------------------------------


def test_a_crl_counts_until_the_second_before_its_next_update():
    crl = parse_crl_untrusted(make_crl(ROOT, (), NOW, NOW + days(1)), role="root-crl")

    require_crl_in_window(crl, NOW)
    require_crl_in_window(crl, NOW + days(1) - timedelta(seconds=1))
    for outside, reason in ((NOW - timedelta(seconds=1), "not-yet-valid"), (NOW + days(1), "expired")):
        with pytest.raises(StaleEndorsementsError, match=f"root-crl-{reason}"):
            require_crl_in_window(crl, outside)


def test_the_size_of_a_crl_is_looked_at_before_its_content():
    with pytest.raises(MalformedError, match="cannot be parsed"):
        parse_crl_untrusted(bytes(CRL_BYTES_MAX), role="root-crl")
    for size in (0, CRL_BYTES_MAX + 1):
        with pytest.raises(MalformedError, match=f"a CRL of {size} bytes"):
            parse_crl_untrusted(bytes(size), role="root-crl")
