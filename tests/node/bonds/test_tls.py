"""The TLS session: what two of them agree on, and that garbage raises the declared error only."""

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.identity import Identity
from node.bonds.certificate import peer_key_untrusted
from node.bonds.tls import TLSSession, bond_context
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
def test_a_changed_record_fails_and_nothing_more_is_said(place: int, change: int) -> None:
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
