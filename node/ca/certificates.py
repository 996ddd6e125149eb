"""The certificates by which other programs trust a member's API with one file for the whole group.

    authority       self-signed, in the system state with its key; every member that holds the state can issue
      member        for the key of an incarnation, issued by the authority: short-lived, renewed
        leaf        what TLS presents, for the same key, issued by that key: as long as the process runs

The member's own key issues the leaf, so the leaf stays the same when the member's certificate is renewed. Two
clients verify one connection: one that has the authority's certificate, by leaf, member, authority; and one
that has pinned this incarnation before there was an authority, by leaf and *anchor*, which is self-signed
and has the name and key of the member's certificate. The leaf's key is the one that the evidence names.

The names are checked twice: here, before anything is signed, and by every verifier, because the
authority's certificate is constrained to them (RFC 5280 4.2.1.10).
"""

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node.ca.names import PermittedNames, address_of

KEY_BYTES: Final = 32
AUTHORITY_VALIDITY: Final = timedelta(days=20 * 365)
MEMBER_VALIDITY: Final = timedelta(days=7)
LEAF_VALIDITY: Final = timedelta(days=10 * 365)
VALID_BEFORE: Final = timedelta(days=1)  # a client's clock may be behind ours by this much
_NO_DOMAIN: Final = "invalid"  # RFC 2606 2: no host has a name below it
_EVERY_ADDRESS: Final = ("0.0.0.0/0", "::/0")
_CURVE_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """The group's authority: its certificate, DER, and its key."""

    certificate_der: bytes
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def generate(cls, group_id: bytes, names: PermittedNames, now: datetime) -> "CertificateAuthority":
        """Return a new authority for these names.

        Args:
            group_id: 32 bytes; its first half is in the authority's name, for people.
            names: at least one.
            now: aware.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        own = _Party(_name(f"bondstone group {group_id.hex()[:32]}"), key.public_key())
        builder = _builder(own, own, now, AUTHORITY_VALIDITY, path_length=1)
        builder = builder.add_extension(_constraints(names), critical=True)
        return cls(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER), key)

    @classmethod
    def load(cls, certificate_der: bytes, key: bytes) -> "CertificateAuthority":
        """Return the authority with this certificate and this private number (big-endian).

        Raises:
            ValueError: they do not belong together.
        """
        certificate = x509.load_der_x509_certificate(certificate_der)
        number = int.from_bytes(key, "big")
        if len(key) != KEY_BYTES or not 0 < number < _CURVE_ORDER:
            raise ValueError("not a private number of P-256")
        private = ec.derive_private_key(number, ec.SECP256R1())
        if certificate.public_key() != private.public_key():
            raise ValueError("the certificate has another key")
        return cls(certificate_der, private)

    @property
    def key_bytes(self) -> bytes:
        """The private number, 32 bytes, big-endian."""
        return self.key.private_numbers().private_value.to_bytes(KEY_BYTES, "big")

    def certify(self, anchor_der: bytes, now: datetime) -> bytes:
        """Return a member's certificate, DER, for the name and key of its incarnation's anchor."""
        anchor = x509.load_der_x509_certificate(anchor_der)
        own = x509.load_der_x509_certificate(self.certificate_der)
        member = _Party(anchor.subject, _p256(anchor))
        issuer = _Party(own.subject, self.key.public_key())
        builder = _builder(member, issuer, now, MEMBER_VALIDITY, path_length=0)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)


@dataclass(frozen=True, slots=True)
class ApiCertificates:
    """What an incarnation makes for its API by itself. DER.

    Attributes:
        anchor: self-signed; whoever trusts it trusts this incarnation, and nothing else.
        leaf: what TLS presents.
        names: that the leaf is for.
    """

    anchor: bytes
    leaf: bytes
    names: tuple[str, ...]

    @classmethod
    def of_key(
        cls,
        key: ec.EllipticCurvePrivateKey,
        peer_id: bytes,
        *,
        wanted: Sequence[str],
        permitted: PermittedNames,
        now: datetime,
    ) -> "ApiCertificates":
        """Return the certificates of an incarnation.

        Args:
            key: of the incarnation.
            peer_id: its id, 32 bytes.
            wanted: the names, at least one; DNS names and IP addresses.
            permitted: the group document's.
            now: aware.

        Raises:
            NameNotPermittedError: a name is not the group document's.
        """
        names = tuple(dict.fromkeys(permitted.require(name) for name in wanted))
        # Neither looks like a DNS name: a verifier would hold it against the authority's constraints.
        issuer, subject = (
            _Party(_name(f"bondstone {what} {peer_id.hex()[:32]}"), key.public_key())
            for what in ("member", "API")
        )
        anchor = _builder(issuer, issuer, now, LEAF_VALIDITY, path_length=0)
        leaf = _builder(subject, issuer, now, LEAF_VALIDITY, path_length=None)
        leaf = leaf.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), False)
        return cls(
            anchor=anchor.sign(key, hashes.SHA256()).public_bytes(Encoding.DER),
            leaf=leaf.sign(key, hashes.SHA256()).public_bytes(Encoding.DER),
            names=names,
        )


def digest_of(certificate_der: bytes) -> bytes:
    """Return the SHA-256 of a certificate, which others call its fingerprint."""
    return hashlib.sha256(certificate_der).digest()


def pem_of(certificate_der: bytes) -> bytes:
    """Return the PEM form of a certificate.

    Raises:
        ValueError: it is none.
    """
    return x509.load_der_x509_certificate(certificate_der).public_bytes(Encoding.PEM)


def valid_until(certificate_der: bytes) -> datetime:
    """Return the last second of a certificate, aware UTC."""
    return x509.load_der_x509_certificate(certificate_der).not_valid_after_utc


class _Party(NamedTuple):
    name: x509.Name
    key: ec.EllipticCurvePublicKey


def _builder(
    subject: _Party, issuer: _Party, now: datetime, validity: timedelta, *, path_length: int | None
) -> x509.CertificateBuilder:
    """Return a certificate to sign. ``path_length``: of one that issues; None for a leaf."""
    issues = path_length is not None
    now = now.astimezone(UTC).replace(microsecond=0)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject.name)
        .issuer_name(issuer.name)
        .public_key(subject.key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID_BEFORE)
        .not_valid_after(now + validity)
        .add_extension(x509.BasicConstraints(ca=issues, path_length=path_length), critical=True)
        .add_extension(_usage(issues=issues), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(subject.key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key), critical=False)
    )
    if not issues:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
    return builder


def _usage(*, issues: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not issues,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=issues,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _constraints(names: PermittedNames) -> x509.NameConstraints:
    """Return what these names mean to a verifier. A kind of name that has none is excluded altogether.

    A constraint to a domain covers everything below it, and there is none for one label more: what the
    authority itself would not certify there, it does not certify.
    """
    domains = dict.fromkeys(name.removeprefix("*.") for name in names.domains) or {_NO_DOMAIN: None}
    permitted: list[x509.GeneralName] = [x509.DNSName(name) for name in domains]
    permitted += [x509.IPAddress(network) for network in names.networks]
    excluded = [x509.IPAddress(ipaddress.ip_network(every)) for every in _EVERY_ADDRESS]
    return x509.NameConstraints(permitted, None if names.networks else excluded)


def _general(name: str) -> x509.GeneralName:
    address = address_of(name)
    return x509.DNSName(name.lower()) if address is None else x509.IPAddress(address)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _p256(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    public = certificate.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise TypeError("a member's key is of P-256")
    return public
