"""The mock authority's certificates and CRLs, in the shapes of Intel's (A4 and A6).

Signatures are deterministic (RFC 6979), so that two nodes which make the collateral of one authority for
one day get the same bytes, and so one cache entry and one digest.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from attestation.encoding import der
from attestation.x509.pck import SGX_EXTENSION_OID

# They contain the role names of A6.1, but not Intel's name.
ROOT_NAME: Final = "Mock SGX Root CA"
PLATFORM_CA_NAME: Final = "Mock SGX PCK Platform CA"
PCK_NAME: Final = "Mock SGX PCK Certificate"
TCB_SIGNING_NAME: Final = "Mock SGX TCB Signing"

_SGX_EXTENSION_ARCS: Final = tuple(int(arc) for arc in SGX_EXTENSION_OID.split("."))
_ECDSA: Final = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A key with its certificate."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate

    @property
    def certificate_der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def sign_raw(self, data: bytes) -> bytes:
        """Return the 64 bytes ``r||s`` of ECDSA-P256-SHA256 over ``data``."""
        return sign_raw(self.key, data)


@dataclass(frozen=True, slots=True, kw_only=True)
class PCKValues:
    """The platform's values in the SGX extension of a PCK certificate.

    Attributes:
        ppid: 16 bytes.
        sgx_svns: the 16 SGX TCB component SVNs, 0 to 255.
        pce_svn: 16 bit.
        pce_id: 2 bytes.
        fmspc: 6 bytes.
        platform_instance_id: 16 bytes.
    """

    ppid: bytes = bytes.fromhex("6d6f636b2d70706964000000000000ff")
    sgx_svns: tuple[int, ...] = (7,) * 8 + (0,) * 8
    pce_svn: int = 13
    pce_id: bytes = bytes(2)
    fmspc: bytes = bytes.fromhex("50806f000000")
    platform_instance_id: bytes = bytes.fromhex("6d6f636b2d706c6174666f726d0000ff")

    def __post_init__(self) -> None:
        lengths = [len(v) for v in (self.ppid, self.pce_id, self.fmspc, self.platform_instance_id)]
        assert lengths == [16, 2, 6, 16], "lengths of A4"
        assert len(self.sgx_svns) == 16, "sixteen components"


def sign_raw(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Return the 64 bytes ``r||s``, big-endian, of ECDSA-P256-SHA256 over ``data``."""
    r, s = decode_dss_signature(key.sign(data, _ECDSA))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def raw_public_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the 64 bytes ``x||y``, big-endian."""
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def make_root(not_before: datetime, not_after: datetime) -> Signer:
    """Return a self-signed root with path length 1."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _make(ROOT_NAME, key, None, not_before, not_after, path_length=1)


def make_platform_ca(issuer: Signer, not_before: datetime, not_after: datetime) -> Signer:
    """Return the intermediate that signs PCK certificates and their CRL."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _make(PLATFORM_CA_NAME, key, issuer, not_before, not_after, path_length=0)


def make_tcb_signer(issuer: Signer, not_before: datetime, not_after: datetime) -> Signer:
    """Return the signer of TCB info and QE identity."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _make(TCB_SIGNING_NAME, key, issuer, not_before, not_after)


def make_pck(issuer: Signer, values: PCKValues, not_before: datetime, not_after: datetime) -> Signer:
    """Return a platform's provisioning certification key."""
    key = ec.generate_private_key(ec.SECP256R1())
    extension = x509.UnrecognizedExtension(
        x509.ObjectIdentifier(SGX_EXTENSION_OID), encode_sgx_extension(values)
    )
    return _make(PCK_NAME, key, issuer, not_before, not_after, extension=extension)


def make_crl(issuer: Signer, revoked: Iterable[int], this_update: datetime, next_update: datetime) -> bytes:
    """Return a DER CRL with AKI and CRLNumber, listing these serial numbers."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(this_update)
        .next_update(next_update)
        .add_extension(_authority_key_identifier(issuer.certificate), critical=False)
        .add_extension(x509.CRLNumber(1), critical=False)
    )
    for serial in sorted(revoked):
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(this_update).build()
        )
    crl = builder.sign(issuer.key, hashes.SHA256(), ecdsa_deterministic=True)
    return crl.public_bytes(serialization.Encoding.DER)


def _make(
    common_name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: Signer | None,
    not_before: datetime,
    not_after: datetime,
    *,
    path_length: int | None = None,
    extension: x509.UnrecognizedExtension | None = None,
) -> Signer:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "bondstone mock authority"),
        ]
    )
    is_ca = path_length is not None
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)
        .add_extension(_key_usage(is_ca=is_ca), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
            if issuer is None
            else _authority_key_identifier(issuer.certificate),
            critical=False,
        )
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    certificate = builder.sign(
        key if issuer is None else issuer.key, hashes.SHA256(), ecdsa_deterministic=True
    )
    return Signer(key=key, certificate=certificate)


def _authority_key_identifier(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=not is_ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


# ---- the SGX extension (A4), in DER (X.690) -------------------------------------------

_SCALABLE: Final = 1
_TRUE: Final = b"\xff"


def encode_sgx_extension(values: PCKValues) -> bytes:
    """Return the DER of the extension 1.2.840.113741.1.13.1 of a scalable (TDX-capable) platform."""
    cpu_svn = bytes(values.sgx_svns)
    components = [_field((2, index), _integer(svn)) for index, svn in enumerate(values.sgx_svns, 1)]
    tcb = _tlv(
        der.SEQUENCE,
        b"".join(components)
        + _field((2, 17), _integer(values.pce_svn))
        + _field((2, 18), _tlv(der.OCTET_STRING, cpu_svn)),
    )
    # Dynamic platform, cached keys and SMT are set on every scalable platform observed until now.
    configuration = _tlv(
        der.SEQUENCE, b"".join(_field((7, index), _tlv(der.BOOLEAN, _TRUE)) for index in (1, 2, 3))
    )
    return _tlv(
        der.SEQUENCE,
        _field((1,), _tlv(der.OCTET_STRING, values.ppid))
        + _field((2,), tcb)
        + _field((3,), _tlv(der.OCTET_STRING, values.pce_id))
        + _field((4,), _tlv(der.OCTET_STRING, values.fmspc))
        + _field((5,), _tlv(der.ENUMERATED, bytes([_SCALABLE])))
        + _field((6,), _tlv(der.OCTET_STRING, values.platform_instance_id))
        + _field((7,), configuration),
    )


def _field(suffix: tuple[int, ...], value: bytes) -> bytes:
    return _tlv(der.SEQUENCE, _oid((*_SGX_EXTENSION_ARCS, *suffix)) + value)


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _integer(value: int) -> bytes:
    # DER integers are signed, so the length must have room for one more bit than the value.
    return _tlv(der.INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _oid(arcs: tuple[int, ...]) -> bytes:
    content = bytes([arcs[0] * 40 + arcs[1]])
    for arc in arcs[2:]:
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        content += bytes(reversed(groups))
    return _tlv(der.OBJECT_IDENTIFIER, content)
