"""One file verifies every member's API, for the names of the group document and no others."""

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from node.ca.certificates import (
    MEMBER_VALIDITY,
    ApiCertificates,
    CertificateAuthority,
    digest_of,
    pem_of,
    valid_until,
)
from node.ca.names import NameNotPermittedError, PermittedNames

NOW = datetime.now(UTC)
GROUP = b"g" * 32
LOCAL = PermittedNames.of(["localhost", "127.0.0.0/8"])


@dataclass
class Member:
    key: ec.EllipticCurvePrivateKey
    api: ApiCertificates


def member(*names: str, permitted: PermittedNames = LOCAL) -> Member:
    key = ec.generate_private_key(ec.SECP256R1())
    return Member(key, ApiCertificates.of_key(key, b"p" * 32, wanted=names, permitted=permitted, now=NOW))


def handshake(
    chain: list[bytes], key: ec.EllipticCurvePrivateKey, trusted: bytes, host: str, at: Path
) -> None:
    """Complete a handshake in memory, with a client of Python's ssl that trusts one file and no more."""
    file = at / "chain.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(b"".join(map(pem_of, chain)) + secret)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(file)
    client_side = ssl.create_default_context(cadata=pem_of(trusted).decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname=host)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.version() is not None


def test_the_one_file_verifies_a_members_chain_for_each_of_its_names(tmp_path):
    authority = CertificateAuthority.generate(GROUP, LOCAL, NOW)
    for one in (member("localhost", "127.0.0.1"), member("127.0.0.1")):
        chain = [one.api.leaf, authority.certify(one.api.anchor, NOW), authority.certificate_der]
        for name in one.api.names:
            handshake(chain, one.key, authority.certificate_der, name, tmp_path)


def test_whoever_pinned_an_incarnation_before_goes_on_with_the_same_file(tmp_path):
    authority, one = CertificateAuthority.generate(GROUP, LOCAL, NOW), member("localhost")
    certified = authority.certify(one.api.anchor, NOW)

    handshake([one.api.leaf], one.key, one.api.anchor, "localhost", tmp_path)
    handshake(
        [one.api.leaf, certified, authority.certificate_der], one.key, one.api.anchor, "localhost", tmp_path
    )


def test_an_incarnations_pin_verifies_no_other_member(tmp_path):
    authority, one, other = (
        CertificateAuthority.generate(GROUP, LOCAL, NOW),
        member("localhost"),
        member("localhost"),
    )
    chain = [other.api.leaf, authority.certify(other.api.anchor, NOW), authority.certificate_der]
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(chain, other.key, one.api.anchor, "localhost", tmp_path)


def test_the_leaf_has_the_key_that_the_evidence_names():
    one = member("localhost")
    leaf = x509.load_der_x509_certificate(one.api.leaf)
    assert leaf.public_key() == one.key.public_key()


@pytest.mark.parametrize("name", ["evil.example", "10.0.0.1", "a.localhost", "::1"])
def test_a_name_outside_the_document_is_refused_before_anything_is_signed(name):
    with pytest.raises(NameNotPermittedError, match=name):
        member("localhost", name)


@pytest.mark.parametrize(
    ("listed", "name"),
    [
        (["localhost"], "evil.example"),
        (["localhost"], "127.0.0.1"),
        (["10.0.0.0/8"], "127.0.0.1"),
        (["127.0.0.0/8"], "localhost"),
        (["fd00::/8"], "127.0.0.1"),
        (["group.internal"], "internal"),
    ],
)
def test_a_name_outside_the_document_is_refused_by_every_verifier_too(listed, name, tmp_path):
    """A member that took the authority's key out of its memory could skip the first check."""
    authority = CertificateAuthority.generate(GROUP, PermittedNames.of(listed), NOW)
    forged = member(name, permitted=PermittedNames.of([name]))
    chain = [forged.api.leaf, authority.certify(forged.api.anchor, NOW), authority.certificate_der]
    with pytest.raises(ssl.SSLCertVerificationError, match=r"permitted subtree|excluded subtree"):
        handshake(chain, forged.key, authority.certificate_der, name, tmp_path)


def test_a_members_certificate_ends_and_a_new_one_verifies_with_the_same_leaf(tmp_path):
    authority, one = CertificateAuthority.generate(GROUP, LOCAL, NOW), member("localhost")
    old = authority.certify(one.api.anchor, NOW - MEMBER_VALIDITY - timedelta(seconds=1))
    assert valid_until(old) < NOW
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(
            [one.api.leaf, old, authority.certificate_der],
            one.key,
            authority.certificate_der,
            "localhost",
            tmp_path,
        )
    new = authority.certify(one.api.anchor, NOW)
    handshake(
        [one.api.leaf, new, authority.certificate_der],
        one.key,
        authority.certificate_der,
        "localhost",
        tmp_path,
    )


def test_an_authority_comes_back_from_its_certificate_and_number():
    authority = CertificateAuthority.generate(GROUP, LOCAL, NOW)
    again = CertificateAuthority.load(authority.certificate_der, authority.key_bytes)
    assert again.key.private_numbers() == authority.key.private_numbers()
    assert digest_of(again.certificate_der) == digest_of(authority.certificate_der)


@pytest.mark.parametrize("key", [b"", bytes(32), b"\xff" * 32, b"\1" * 31, b"\1" * 32])
def test_a_number_that_is_not_the_certificates_is_refused(key):
    authority = CertificateAuthority.generate(GROUP, LOCAL, NOW)
    with pytest.raises(ValueError, match=r"P-256|another key"):
        CertificateAuthority.load(authority.certificate_der, key)


def test_the_authority_shows_its_key_in_no_text():
    authority = CertificateAuthority.generate(GROUP, LOCAL, NOW)
    assert authority.key_bytes.hex() not in repr(authority)
    assert "key" not in repr(authority).replace("key_cert", "")


def test_a_constraint_is_the_documents_name_and_covers_every_kind():
    for listed, excluded in ((["a.example", "*.b.example"], 2), (["10.0.0.0/8"], 0)):
        authority = CertificateAuthority.generate(GROUP, PermittedNames.of(listed), NOW)
        certificate = x509.load_der_x509_certificate(authority.certificate_der)
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints)
        assert constraints.critical
        assert len(constraints.value.excluded_subtrees or []) == excluded
        permitted = {item.value for item in constraints.value.permitted_subtrees or []}
        assert permitted in (
            {"a.example", "b.example"},
            {"invalid", ipaddress.ip_network("10.0.0.0/8")},
        )
