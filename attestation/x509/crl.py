"""Certificate revocation lists (RFC 5280 5 and 6.3; A6.3 and A6.4)."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

from attestation.errors import CertificatePathError, MalformedError, RevokedError, SignatureError
from attestation.x509.certificates import LIBRARY_ERRORS, Certificate, require_window, signed_part_untrusted
from attestation.x509.ecdsa import is_der_signature_valid

CRL_BYTES_MAX: Final = 512 * 1024
SIGNED_MAX: Final = 16
"""How many CRLs are kept of which the issuer's signature was found right. There are three of Intel."""

# Extensions that limit a list to some of its issuer's certificates, critical (as RFC 5280 wants) or not.
_NARROWING: Final = frozenset(
    {ExtensionOID.DELTA_CRL_INDICATOR, ExtensionOID.ISSUING_DISTRIBUTION_POINT}  # RFC 5280 5.2.4, 5.2.5
)
_CERTIFICATE_ISSUER: Final = CRLEntryExtensionOID.CERTIFICATE_ISSUER  # RFC 5280 5.3.3: of an indirect CRL
# In DER: an extension's critical TRUE, and the OID above. Bytes with neither contain no entry to refuse.
_TRUE: Final = bytes.fromhex("0101ff")
_CERTIFICATE_ISSUER_DER: Final = bytes.fromhex("0603551d1d")


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """A parsed CRL; nothing about it is verified. Two are equal if their bytes and roles are.

    Attributes:
        role: ``root-crl`` or ``pck-crl``: the prefix of its reason codes.
        authority_key_identifier: of the issuer, bytes.
    """

    role: str
    der: bytes
    parsed: x509.CertificateRevocationList = field(compare=False)
    issuer: x509.Name = field(compare=False)
    signed: bytes = field(compare=False)
    this_update: datetime = field(compare=False)
    next_update: datetime = field(compare=False)
    number: int = field(compare=False)
    authority_key_identifier: bytes = field(compare=False)

    @property
    def last_valid(self) -> datetime:
        """The second before nextUpdate: at nextUpdate a newer list exists."""
        return self.next_update - timedelta(seconds=1)


def parse_crl_untrusted(der: bytes, *, role: str) -> RevocationList:
    """Parse a complete CRL that has nextUpdate, CRLNumber and AuthorityKeyIdentifier.

    Raises:
        MalformedError: ``<role>-malformed``; also for a list that covers only some of its issuer's
            certificates, or has a critical extension, also one of an entry (RFC 5280 5.2, 5.3).
    """
    if not der or len(der) > CRL_BYTES_MAX:
        raise MalformedError(f"{role}-malformed", f"a CRL of {len(der)} bytes, expected 1 to {CRL_BYTES_MAX}")
    try:
        crl = x509.load_der_x509_crl(der)
        extensions = crl.extensions
        number = extensions.get_extension_for_class(x509.CRLNumber)
        identifier = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        # A critical extension must be understood (RFC 5280 5.2), and this verifier implements none.
        narrowing = [
            extension.oid.dotted_string
            for extension in extensions
            if extension.critical or extension.oid in _NARROWING
        ]
        narrowing += _of_entries(crl, der)
        next_update = crl.next_update_utc
        out = RevocationList(
            role=role,
            der=der,
            parsed=crl,
            issuer=crl.issuer,
            # version, signature (RFC 5280 5.1).
            signed=signed_part_untrusted(der, role=role, algorithm_index=1),
            this_update=crl.last_update_utc,
            next_update=crl.last_update_utc if next_update is None else next_update,
            number=number.value.crl_number,
            authority_key_identifier=identifier.value.key_identifier or b"",
        )
    except LIBRARY_ERRORS as exc:
        raise MalformedError(f"{role}-malformed", f"the {role} cannot be parsed") from exc
    if narrowing:
        raise MalformedError(
            f"{role}-malformed",
            f"the {role} does not cover all certificates of its issuer, or has a critical extension that is "
            "not supported",
            values={"extensions": sorted(set(narrowing))},
        )
    if next_update is None:
        raise MalformedError(f"{role}-malformed", f"the {role} has no nextUpdate")
    return out


def _of_entries(crl: x509.CertificateRevocationList, der: bytes) -> list[str]:
    """Return the extensions of entries that must be understood, or that name another issuer.

    Most lists have thousands of entries and no such extension: a search in their bytes shows that quickly.
    """
    if _TRUE not in der and _CERTIFICATE_ISSUER_DER not in der:
        return []
    return [
        extension.oid.dotted_string
        for entry in crl
        for extension in entry.extensions
        if extension.critical or extension.oid == _CERTIFICATE_ISSUER
    ]


@lru_cache(maxsize=SIGNED_MAX)
def require_crl_signed_by(crl: RevocationList, issuer: Certificate) -> None:
    """Require that this CRL was issued in the name and with the key of ``issuer``.

    That is a fact about the bytes of the two, without time, so it is kept of the latest lists that passed. A
    refusal is never kept.

    Raises:
        CertificatePathError: ``<role>-issuer-mismatch`` or ``<role>-issuer-not-crl-signer``.
        SignatureError: ``<role>-signature``.
    """
    if crl.issuer != issuer.subject or (
        issuer.key_identifier is not None and crl.authority_key_identifier != issuer.key_identifier
    ):
        raise CertificatePathError(
            f"{crl.role}-issuer-mismatch",
            f"the {crl.role} was not issued by the {issuer.role}",
            values={
                "expected": issuer.subject.rfc4514_string(),
                "actual": crl.issuer.rfc4514_string(),
            },
        )
    # RFC 5280 6.3.3 (f).
    if issuer.key_usage is None or not issuer.key_usage.crl_sign:
        raise CertificatePathError(
            f"{crl.role}-issuer-not-crl-signer",
            f"the {issuer.role} certificate may not sign CRLs",
        )
    if not is_der_signature_valid(issuer.public_key, crl.parsed.signature, crl.signed):
        raise SignatureError(f"{crl.role}-signature", f"the {crl.role} is not signed by the {issuer.role}")


def require_crl_in_window(crl: RevocationList, now: datetime) -> None:
    """Require thisUpdate <= now < nextUpdate: at nextUpdate a newer list exists.

    Raises:
        StaleEndorsementsError: ``<role>-not-yet-valid`` or ``<role>-expired``.
    """
    require_window(crl.role, f"the {crl.role}", crl.this_update, crl.last_valid, now)


def require_not_revoked(certificate: Certificate, crl: RevocationList) -> None:
    """Require that a verified CRL does not list this certificate.

    Raises:
        RevokedError: ``<role>-revoked``.
    """
    serial = certificate.parsed.serial_number
    if crl.parsed.get_revoked_certificate_by_serial_number(serial) is not None:
        raise RevokedError(
            f"{certificate.role}-revoked",
            f"the {certificate.role} certificate is revoked",
            values={"serial": f"{serial:x}", "crl_issued": crl.this_update.isoformat()},
        )
