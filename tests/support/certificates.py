"""X.509 certificates with anything about them wrong."""

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from enclave.mock.pki import Signer
from tests.support.evidence import NOW, days

NOT_BEFORE, NOT_AFTER = NOW - days(10), NOW + days(10)

USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def usage(*allowed: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in allowed for name in USAGES})


def name_of(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def make(
    common_name: str,
    issuer: Signer | None,
    *,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    ca: bool | None = False,
    path_length: int | None = None,
    key_usage: x509.KeyUsage | None = None,
    not_before: datetime = NOT_BEFORE,
    not_after: datetime = NOT_AFTER,
    extension: tuple[x509.ExtensionType, bool] | None = None,
    algorithm: hashes.HashAlgorithm | None = None,
    issuer_name: x509.Name | None = None,
    subject: x509.Name | None = None,
    serial: int | None = None,
) -> Signer:
    """Return a signer; ``ca=None`` and ``key_usage=None`` leave the extension out."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = subject or name_of(common_name)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name or (issuer.certificate.subject if issuer else subject))
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    if key_usage is not None:
        builder = builder.add_extension(key_usage, critical=True)
    if extension is not None:
        builder = builder.add_extension(*extension)
    signing_key = issuer.key if issuer else key
    certificate = builder.sign(signing_key, algorithm or hashes.SHA256())  # type: ignore[arg-type]  # any, on purpose
    return Signer(key=key, certificate=certificate)  # type: ignore[arg-type]  # an RSA key is to be refused


def root_until(root: Signer, not_after: datetime) -> Signer:
    """Return the same root, of the same key, with another last second."""
    return make(
        "",
        None,
        subject=root.certificate.subject,
        key=root.key,
        ca=True,
        path_length=1,
        key_usage=usage("key_cert_sign", "crl_sign"),
        not_after=not_after,
    )
