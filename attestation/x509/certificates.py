"""Certificates: bounded parsing, one link of a path at a time, roles (RFC 5280 6.1; A6).

Every path of DCAP has a fixed length and fixed roles, so there is no path building: each link is checked by
name. Not used, and why: policies and name constraints (no DCAP certificate has them; a critical extension
that we do not process refuses the certificate), CRL distribution points (evidence names no address to us).
"""

import binascii
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID, SignatureAlgorithmOID

from attestation.encoding import der
from attestation.errors import (
    CertificatePathError,
    MalformedError,
    SignatureError,
    StaleEndorsementsError,
)
from attestation.values import timestamp
from attestation.x509.ecdsa import is_der_signature_valid
from attestation.x509.pck import SGX_EXTENSION_OID

CERTIFICATE_BYTES_MAX: Final = 8 * 1024
PEM_BYTES_MAX: Final = 64 * 1024
CHAINS_MAX: Final = 16
"""How many chains, of ``PEM_BYTES_MAX`` at most, are kept with their blocks."""

PARSED_MAX: Final = 64
"""How many parsed certificates are kept."""

LINKS_MAX: Final = 64
"""How many pairs of a certificate and its issuer are kept of which the signature was found right."""

LIBRARY_ERRORS: Final = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    Warning,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""The exceptions that the library raises for bytes that it cannot parse as a certificate or CRL."""

_DASHES: Final = b"-----"
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"
# AlgorithmIdentifier{1.2.840.10045.4.3.2}, without parameters (RFC 5758 3.2).
_ECDSA_WITH_SHA256: Final = bytes.fromhex("06082a8648ce3d040302")
_PROCESSED: Final = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Certificate:
    """A parsed certificate with a P-256 key; nothing about it is verified. It is equal to itself alone.

    Attributes:
        role: its required role (``pck``, ``pck-ca``, ``tcb-info-signer``, …): the prefix of its reason codes.
        ca: None if it has no BasicConstraints extension: it then counts neither as a CA nor as a leaf.
        sgx_extension: value of Intel's SGX extension, if present.
    """

    role: str
    der: bytes
    parsed: x509.Certificate
    subject: x509.Name
    issuer: x509.Name
    signed: bytes
    public_key: ec.EllipticCurvePublicKey
    common_name: str
    not_before: datetime
    not_after: datetime
    ca: bool | None
    path_length: int | None
    key_usage: x509.KeyUsage | None
    key_identifier: bytes | None
    sgx_extension: bytes | None


@lru_cache(maxsize=CHAINS_MAX)
def split_pem_untrusted(data: bytes, *, role: str, count_max: int) -> tuple[bytes, ...]:
    """Return the DER of each PEM certificate block, in order; text between blocks is ignored.

    A pure function of its bytes, so the blocks of the latest chains are kept.

    Lenient as real chains need it: CRLF, a NUL at the end, text between. An unfinished block is refused,
    and so is a boundary that shares its line with anything (RFC 7468 3): readers would see different blocks.

    Raises:
        MalformedError: ``<role>-chain-malformed``.
    """
    if len(data) > PEM_BYTES_MAX:
        raise MalformedError(f"{role}-chain-malformed", f"{len(data)} bytes of PEM, at most {PEM_BYTES_MAX}")
    out: list[bytes] = []
    body_at: int | None = None
    data = data.rstrip(b"\0")  # some platforms add a NUL
    dashes = data.find(_DASHES)
    while dashes >= 0:
        # RFC 7468 3: each boundary has a line of its own.
        line_at, line_end = data.rfind(b"\n", 0, dashes) + 1, data.find(b"\n", dashes)
        line_end = len(data) if line_end < 0 else line_end
        text = data[line_at:line_end].lstrip(b"\0").rstrip(b" \t\r")
        if text == _BEGIN and body_at is None and len(out) < count_max:
            body_at = line_end
        elif text == _END and body_at is not None:
            out.append(_decode_pem_body(data[body_at:line_at], role))
            body_at = None
        elif b"-----BEGIN" in text or b"-----END" in text:
            raise MalformedError(
                f"{role}-chain-malformed",
                f"a PEM boundary is out of place or not a certificate's, or there are more than {count_max} "
                "certificates",
            )
        dashes = data.find(_DASHES, line_end)
    if body_at is not None:
        raise MalformedError(f"{role}-chain-malformed", "a PEM block is not finished")
    return tuple(out)


def _decode_pem_body(body: bytes, role: str) -> bytes:
    text = b"".join([line.rstrip(b"\r") for line in body.split(b"\n")])
    try:
        out = binascii.a2b_base64(text)
    except ValueError as exc:
        raise MalformedError(f"{role}-chain-malformed", "a PEM block is not base64") from exc
    # The decoder drops unknown characters, and even its strict mode accepts padding after a whole group and
    # bits beyond the last byte. So the text must equal the encoding of its decoded bytes.
    if binascii.b2a_base64(out, newline=False) != text:
        raise MalformedError(f"{role}-chain-malformed", "a PEM block is not canonical base64")
    return out


@lru_cache(maxsize=PARSED_MAX)
def load_certificate_untrusted(der_bytes: bytes, *, role: str) -> Certificate:
    """Parse one certificate. A pure function of its bytes, so the parsed form of the latest is kept.

    Raises:
        MalformedError: ``<role>-malformed``; ``<role>-algorithm`` for other than ECDSA P-256 with SHA-256.
    """
    if len(der_bytes) > CERTIFICATE_BYTES_MAX:
        raise MalformedError(f"{role}-malformed", f"a certificate of {len(der_bytes)} bytes")
    try:
        return _load(der_bytes, role)
    except LIBRARY_ERRORS as exc:
        raise MalformedError(f"{role}-malformed", f"the {role} certificate cannot be parsed") from exc


def signed_part_untrusted(data: bytes, *, role: str, algorithm_index: int) -> bytes:
    """Return the bytes that a certificate's or CRL's signature covers, as they stand.

    Args:
        data: SIGNED{} of X.509: signed part, algorithm, signature, in this order and nothing more.
        role: prefix of the reason codes.
        algorithm_index: position of the algorithm inside the signed part; it must equal the outer one
            (RFC 5280 4.1.1.2).

    Raises:
        MalformedError: ``<role>-malformed``, or ``<role>-algorithm`` for other than ecdsa-with-SHA256.
    """
    try:
        content = der.only_untrusted(data, der.SEQUENCE)
        tag, inner, end = der.read_untrusted(content, 0)
        outer_tag, outer, signature_at = der.read_untrusted(content, end)
        # RFC 5280 4.1.1.3: DER of the signature, so whole octets. The library does not check unused bits.
        der.octets_untrusted(der.only_untrusted(content[signature_at:], der.BIT_STRING))
        inner_elements = der.elements_untrusted(inner, algorithm_index + 1)
    except MalformedError as exc:
        raise MalformedError(f"{role}-malformed", f"the {role} is not DER") from exc
    expected = (der.SEQUENCE, _ECDSA_WITH_SHA256)
    if tag != der.SEQUENCE or (outer_tag, outer) != expected or inner_elements[-1:] != [expected]:
        raise MalformedError(f"{role}-algorithm", f"the {role} is not signed by ECDSA with SHA-256")
    return content[:end]


def _load(der_bytes: bytes, role: str) -> Certificate:
    certificate = x509.load_der_x509_certificate(der_bytes)
    public_key = certificate.public_key()
    if (
        not isinstance(public_key, ec.EllipticCurvePublicKey)
        or not isinstance(public_key.curve, ec.SECP256R1)
        or certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256
    ):
        raise MalformedError(f"{role}-algorithm", f"the {role} certificate is not ECDSA P-256 with SHA-256")
    basic: x509.BasicConstraints | None = None
    key_usage: x509.KeyUsage | None = None
    key_identifier: bytes | None = None
    sgx_extension: bytes | None = None
    for extension in certificate.extensions:
        value = extension.value
        if extension.critical and extension.oid not in _PROCESSED:
            raise MalformedError(
                f"{role}-critical-extension",
                f"the {role} certificate has an unknown critical extension",
                values={"oid": extension.oid.dotted_string},
            )
        if isinstance(value, x509.BasicConstraints):
            basic = value
        elif isinstance(value, x509.KeyUsage):
            key_usage = value
        elif isinstance(value, x509.SubjectKeyIdentifier):
            key_identifier = value.digest
        elif (
            isinstance(value, x509.UnrecognizedExtension) and extension.oid.dotted_string == SGX_EXTENSION_OID
        ):
            sgx_extension = value.value
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Certificate(
        role=role,
        der=der_bytes,
        parsed=certificate,
        # Read here, because the library parses lazily: a broken name must not surface later.
        subject=certificate.subject,
        issuer=certificate.issuer,
        # version, serialNumber, signature (RFC 5280 4.1).
        signed=signed_part_untrusted(der_bytes, role=role, algorithm_index=2),
        public_key=public_key,
        common_name=str(names[0].value) if len(names) == 1 else "",
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        ca=None if basic is None else basic.ca,
        path_length=None if basic is None else basic.path_length,
        key_usage=key_usage,
        key_identifier=key_identifier,
        sgx_extension=sgx_extension,
    )


@lru_cache(maxsize=LINKS_MAX)
def require_issued_by(certificate: Certificate, issuer: Certificate) -> None:
    """Require that ``issuer``'s subject and key made this certificate.

    Whether they did is a fact about the bytes of the two and nothing else: no time, root, role or revocation.
    So it is kept of the latest pairs that passed, by the objects that ``load_certificate_untrusted`` keeps. A
    refusal is never kept.

    Raises:
        CertificatePathError: ``<role>-issuer-mismatch``: issued in another name.
        SignatureError: ``<role>-signature``.
    """
    role = certificate.role
    if certificate.issuer != issuer.subject:
        raise CertificatePathError(
            f"{role}-issuer-mismatch",
            f"the {role} certificate does not name the {issuer.role} certificate as its issuer",
            values={
                "expected": issuer.subject.rfc4514_string(),
                "actual": certificate.issuer.rfc4514_string(),
            },
        )
    if not is_der_signature_valid(issuer.public_key, certificate.parsed.signature, certificate.signed):
        raise SignatureError(
            f"{role}-signature",
            f"the {role} certificate is not signed by the {issuer.role} certificate",
        )


def require_role(certificate: Certificate, *common_names: str) -> None:
    """Require that the common name contains one of these texts.

    Only the name distinguishes a TCB Signing certificate from any other leaf (A15.1).

    Raises:
        CertificatePathError: ``<role>-role``.
    """
    if not any(name in certificate.common_name for name in common_names):
        raise CertificatePathError(
            f"{certificate.role}-role",
            f"a certificate named {certificate.common_name!r} cannot be the {certificate.role}",
            values={"expected": list(common_names), "actual": certificate.common_name},
        )


def require_ca(certificate: Certificate, *, intermediates_below: int) -> None:
    """Require CA:TRUE, keyCertSign and a path length that allows what is below (RFC 5280 6.1.4 (k)-(n)).

    Raises:
        CertificatePathError: ``<role>-not-ca``.
    """
    usage = certificate.key_usage
    length = certificate.path_length
    if (
        certificate.ca is not True
        or usage is None
        or not usage.key_cert_sign
        or (length is not None and length < intermediates_below)
    ):
        raise CertificatePathError(
            f"{certificate.role}-not-ca",
            f"the {certificate.role} certificate may not issue the certificate below it",
        )


def require_leaf(certificate: Certificate) -> None:
    """Require CA:FALSE and digitalSignature.

    Raises:
        CertificatePathError: ``<role>-not-leaf``.
    """
    usage = certificate.key_usage
    if certificate.ca is not False or usage is None or not usage.digital_signature or usage.key_cert_sign:
        raise CertificatePathError(
            f"{certificate.role}-not-leaf",
            f"the {certificate.role} certificate is a CA, or may not sign",
        )


def require_in_window(certificate: Certificate, now: datetime) -> None:
    """Require notBefore <= now <= notAfter (RFC 5280 4.1.2.5).

    Raises:
        StaleEndorsementsError: ``<role>-not-yet-valid`` or ``<role>-expired``.
    """
    require_window(
        certificate.role,
        f"the {certificate.role} certificate",
        certificate.not_before,
        certificate.not_after,
        now,
    )


def require_window(code: str, what: str, not_before: datetime, not_after: datetime, now: datetime) -> None:
    """Require ``not_before <= now <= not_after``.

    Raises:
        StaleEndorsementsError: ``<code>-not-yet-valid`` or ``<code>-expired``.
    """
    if not_before <= now <= not_after:
        return
    values = {
        "not_before": timestamp(not_before),
        "not_after": timestamp(not_after),
        "now": timestamp(now),
    }
    if now < not_before:
        raise StaleEndorsementsError(
            f"{code}-not-yet-valid",
            f"{what} is valid from {timestamp(not_before)}, now is {timestamp(now)}",
            values=values,
        )
    raise StaleEndorsementsError(
        f"{code}-expired",
        f"{what} expired at {timestamp(not_after)}, now is {timestamp(now)}",
        values=values,
    )
