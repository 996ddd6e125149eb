"""The TLS session: what two of them agree on, and that garbage raises the declared error only."""

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from enclave.identity import Identity
from node.bonds import tls
from node.bonds.tls import ALPN, CIPHERSUITES, TLSSession, bond_context, peer_key_untrusted
from node.errors import RemoteProtocolError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALICE, BOB = Identity.generate("alice", NOW), Identity.generate("bob", NOW)
CONTEXTS = {
    identity.name: bond_context(identity.private_key, identity.certificate_der) for identity in (ALICE, BOB)
}


def established() -> tuple[TLSSession, TLSSession]:
    client = TLSSession(CONTEXTS["alice"], server=False)
    server = TLSSession(CONTEXTS["bob"], server=True)
    client.start()
    while not (client.established and server.established):
        server.receive_data_untrusted(client.data_to_send())
        client.receive_data_untrusted(server.data_to_send())
    return client, server


def test_both_ends_know_each_others_key() -> None:
    client, server = established()

    assert peer_key_untrusted(client.peer_certificate_der()).peer_id == BOB.peer_id
    assert peer_key_untrusted(server.peer_certificate_der()).peer_id == ALICE.peer_id


def test_both_ends_export_the_same_and_no_other_connection_does() -> None:
    client, server = established()
    other, _ = established()

    assert client.export(b"group") == server.export(b"group")
    assert len(client.export(b"group")) == 32
    assert client.export(b"group") != client.export(b"another group")
    assert client.export(b"group") != other.export(b"group")


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 1_000_000])
def test_data_of_any_size_passes(size: int) -> None:
    client, server = established()
    if size:
        client.send_data(b"x" * size)

    assert server.receive_data_untrusted(client.data_to_send()) == b"x" * size


def test_the_end_of_a_peer_is_noticed() -> None:
    client, server = established()
    client.send_data(b"last words")
    client.send_close()

    assert server.receive_data_untrusted(client.data_to_send()) == b"last words"
    assert server.closed


@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
@given(data=st.binary(min_size=1, max_size=400))
def test_garbage_instead_of_a_handshake(server: bool, data: bytes) -> None:
    session = TLSSession(CONTEXTS["bob"], server=server)
    session.start()
    with contextlib.suppress(RemoteProtocolError):
        assert session.receive_data_untrusted(data) == b""

    assert not session.established


@given(place=st.integers(5, 60), change=st.integers(1, 255))
def test_a_changed_record_fails_and_nothing_more_is_sent(place: int, change: int) -> None:
    client, server = established()
    client.send_data(b"x" * 39)  # 5 bytes of header, 39 of data, 1 of type, 16 of tag
    record = bytearray(client.data_to_send())
    record[place] ^= change
    with pytest.raises(RemoteProtocolError) as caught:
        server.receive_data_untrusted(bytes(record))
    server.data_to_send()  # the alert
    server.send_data(b"answer")

    assert caught.value.reason == "tls-failed"
    assert server.data_to_send() == b""


@given(st.binary(max_size=300))
def test_garbage_instead_of_a_certificate(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        peer_key_untrusted(data)


@given(st.integers(0, len(ALICE.certificate_der) - 1), st.integers(1, 255))
def test_no_changed_byte_of_a_certificate_gives_another_id(place: int, change: int) -> None:
    changed = bytearray(ALICE.certificate_der)
    changed[place] ^= change
    with contextlib.suppress(RemoteProtocolError):
        assert peer_key_untrusted(bytes(changed)).peer_id == ALICE.peer_id


# ---- what a peer can make a node verify ------------------------------------------------
def certificate(number: int, issuer: int, key: Any, signer: Any) -> x509.Certificate:
    def named(which: int) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"c{which}")])

    return (
        x509.CertificateBuilder()
        .subject_name(named(number))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(number + 1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=36_500))
        .add_extension(x509.BasicConstraints(ca=number > 0, path_length=None), critical=True)
        .sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else SHA256())
    )


def hostile_context(key: Any, leaf: x509.Certificate, chain: list[x509.Certificate]) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_tls13_ciphersuites(CIPHERSUITES)
    context.set_alpn_protos([ALPN])
    context.set_alpn_select_callback(lambda _connection, _offered: ALPN)
    context.use_certificate(leaf)
    context.use_privatekey(key)
    for item in chain:
        context.add_extra_chain_cert(item)
    return context


def meet(context: SSL.Context, hostile: SSL.Context, *, we_serve: bool) -> TLSSession:
    us, them = TLSSession(context, server=we_serve), TLSSession(hostile, server=not we_serve)
    us.start()
    them.start()
    for _ in range(3):
        us.receive_data_untrusted(them.data_to_send())
        with contextlib.suppress(RemoteProtocolError):  # of the peer: this side has hung up
            them.receive_data_untrusted(us.data_to_send())
    return us


CHAIN_LENGTH = 12


def verified_of_a_chain(monkeypatch: pytest.MonkeyPatch, *, we_serve: bool) -> int:
    """Return how many certificates of a peer's long chain had their signatures checked."""
    verified = []

    def look(_connection: Any, _certificate: Any, error: int, depth: int, ok: int) -> bool:
        verified.append(depth) if ok and not error else None
        return True

    monkeypatch.setattr(tls, "_accept_any_path", look)
    key, authority = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    chain = [
        certificate(i, min(i + 1, CHAIN_LENGTH), authority, authority) for i in range(1, CHAIN_LENGTH + 1)
    ]
    leaf = certificate(0, 1, key, authority)
    context = bond_context(BOB.private_key, BOB.certificate_der)
    meet(context, hostile_context(key, leaf, chain), we_serve=we_serve)
    return len(set(verified))


@pytest.mark.parametrize("we_serve", [True, False], ids=["server", "client"])
def test_a_chain_of_certificates_costs_no_more_than_its_leaf(
    we_serve: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty RSA certificates with huge exponents kept a node busy for 0.8 s, before any proof."""
    assert verified_of_a_chain(monkeypatch, we_serve=we_serve) <= 1


@pytest.mark.parametrize("we_serve", [True, False], ids=["server", "client"])
def test_all_of_it_would_be_verified_if_the_path_went_on(
    we_serve: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "PATH_DEPTH", 100)

    assert verified_of_a_chain(monkeypatch, we_serve=we_serve) == CHAIN_LENGTH + 1


@pytest.mark.parametrize("we_serve", [True, False], ids=["server", "client"])
@pytest.mark.parametrize("kind", ["rsa", "p384", "ed25519"])
def test_no_other_kind_of_key_signs_a_handshake(kind: str, we_serve: bool) -> None:
    key: Any = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
    }[kind]()
    hostile = hostile_context(key, certificate(0, 0, key, key), [])
    with pytest.raises(RemoteProtocolError) as caught:
        meet(CONTEXTS["bob"], hostile, we_serve=we_serve)

    assert caught.value.reason == "tls-failed"


def test_no_other_kind_of_key_names_a_peer() -> None:
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        with pytest.raises(RemoteProtocolError) as caught:
            peer_key_untrusted(certificate(0, 0, key, key).public_bytes(Encoding.DER))

        assert caught.value.reason == "peer-certificate"
