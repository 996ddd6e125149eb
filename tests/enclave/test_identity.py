"""A node's identity: a fresh key, a certificate that TLS libraries take, and the peer id."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.tickets.ids import peer_id_of_spki
from enclave.identity import Identity

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_every_incarnation_has_a_key_and_a_peer_id_of_its_own() -> None:
    one, two = (Identity.generate("node", NOW) for _ in range(2))

    assert one.peer_id != two.peer_id
    assert one.private_key.private_numbers() != two.private_key.private_numbers()


def test_the_peer_id_is_that_of_the_certificates_key() -> None:
    identity = Identity.generate("node", NOW)
    certificate = x509.load_der_x509_certificate(identity.certificate_der)
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    assert identity.spki_der == spki
    assert identity.peer_id == peer_id_of_spki(spki)
    assert isinstance(identity.private_key.curve, ec.SECP256R1)
    certificate.verify_directly_issued_by(certificate)


def test_the_certificate_names_the_node_and_its_addresses_and_is_no_ca() -> None:
    identity = Identity.generate("node-1", NOW, hosts=["127.0.0.1", "::1", "localhost", "node-1"])
    certificate = x509.load_der_x509_certificate(identity.certificate_der)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value

    assert names.get_values_for_type(x509.DNSName) == ["node-1", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert constraints.ca is False


def test_the_certificate_outlives_every_uptime_and_tolerates_a_clock_behind() -> None:
    certificate = x509.load_der_x509_certificate(Identity.generate("node", NOW).certificate_der)

    assert certificate.not_valid_before_utc <= NOW - timedelta(days=1)
    assert certificate.not_valid_after_utc >= NOW + timedelta(days=3650)


def test_a_strict_tls_client_that_pins_the_certificate_accepts_it(tmp_path: Path) -> None:
    identity = Identity.generate("node", datetime.now(UTC), hosts=["127.0.0.1"])
    (tmp_path / "key.pem").write_bytes(identity.private_key_pem())
    (tmp_path / "certificate.pem").write_bytes(identity.certificate_pem())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    client = ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue

    assert ends[0].version() == "TLSv1.3"
    assert ends[0].getpeercert(binary_form=True) == identity.certificate_der


@pytest.mark.parametrize("name", ["", "n" * 65, "nöde"])
def test_a_name_that_cannot_stand_in_a_certificate_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Identity.generate(name, NOW)


def test_the_key_is_in_no_representation() -> None:
    identity = Identity.generate("node", NOW)

    assert "private" not in repr(identity)
