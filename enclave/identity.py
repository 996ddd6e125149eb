"""The node's identity: a key born in the trust domain's memory, and its self-signed certificate.

The key is never written anywhere, so a reboot is a new incarnation with a new peer id; the safety of
the volatile voters depends on that. Trust in the key comes from a quote that contains its digest, never from
the certificate, so the certificate's dates and names prove nothing.
A ``trust_disk`` node, which trusts its host, is the exception: it keeps its key on its disk.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from attestation.tickets.ids import peer_id_of_spki

# The ticket alone decides when an admission expires. The certificate must never end a bond, so it outlives
# every uptime, and starts early enough for a verifier with a clock behind ours.
VALIDITY_BEFORE: Final = timedelta(days=30)
VALIDITY_AFTER: Final = timedelta(days=3650)

# RFC 5280 A.1: ub-common-name.
NAME_CHARS_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One incarnation of a node.

    Attributes:
        name: the operator's label; proves nothing.
        private_key: P-256, born in this process.
        certificate_der: self-signed, for bonds and for the HTTPS API alike.
        spki_der: DER SubjectPublicKeyInfo of the key.
        peer_id: 32 bytes, the incarnation's id.
    """

    name: str
    private_key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate_der: bytes = field(repr=False)
    spki_der: bytes = field(repr=False)
    peer_id: bytes

    @classmethod
    def generate(cls, name: str, now: datetime, *, hosts: Sequence[str] = ()) -> "Identity":
        """Return a new incarnation.

        Args:
            name: common name and first subject alternative name, 1 to 64 characters.
            now: aware UTC time.
            hosts: further DNS names and IP addresses under which clients reach this node.

        Raises:
            ValueError: the name or a host is not valid in a certificate.
        """
        return cls.of_key(ec.generate_private_key(ec.SECP256R1()), name, now, hosts=hosts)

    @classmethod
    def of_key(
        cls, key: ec.EllipticCurvePrivateKey, name: str, now: datetime, *, hosts: Sequence[str] = ()
    ) -> "Identity":
        """Return the incarnation with this P-256 key and a new certificate. Otherwise as ``generate``."""
        if not 1 <= len(name) <= NAME_CHARS_MAX:
            raise ValueError(f"a node name has 1 to {NAME_CHARS_MAX} characters, not {len(name)}")
        spki = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        certificate = _self_signed(key, name, hosts, now.astimezone(UTC))
        return cls(
            name=name,
            private_key=key,
            certificate_der=certificate.public_bytes(serialization.Encoding.DER),
            spki_der=spki,
            peer_id=peer_id_of_spki(spki),
        )

    def private_key_pem(self) -> bytes:
        """Return the unencrypted PKCS #8 PEM of the key, for TLS libraries that accept only PEM."""
        return self.private_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def certificate_pem(self) -> bytes:
        """Return the PEM of the certificate, which an HTTPS client pins."""
        certificate = x509.load_der_x509_certificate(self.certificate_der)
        return certificate.public_bytes(serialization.Encoding.PEM)


def _self_signed(
    key: ec.EllipticCurvePrivateKey, name: str, hosts: Sequence[str], now: datetime
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    public_key = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALIDITY_BEFORE)
        .not_valid_after(now + VALIDITY_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(name, hosts)), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )


def _alternative_names(name: str, hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: dict[x509.GeneralName, None] = {}
    for host in (name, *hosts):
        try:
            names[x509.IPAddress(ipaddress.ip_address(host))] = None
        except ValueError:
            names[x509.DNSName(host)] = None
    return list(names)
