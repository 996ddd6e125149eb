"""Signatures that carry their key."""

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from attestation.encoding import canonical
from attestation.tickets.ids import peer_id_of_spki
from enclave.identity import Identity
from node.group.credentials import IdentityCredentials
from node.peers import Incarnation

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALICE, BOB = Identity.generate("alice", NOW), Identity.generate("bob", NOW)
CREDENTIALS = IdentityCredentials(ALICE)
WHO = Incarnation("alice", ALICE.peer_id)
SIGNATURE = CREDENTIALS.sign(b"genesis")


def test_an_incarnations_signature_verifies_with_its_public_identity() -> None:
    assert IdentityCredentials(BOB).verify(WHO, b"genesis", SIGNATURE)


def test_neither_other_data_nor_another_signer_verifies() -> None:
    assert not CREDENTIALS.verify(WHO, b"another genesis", SIGNATURE)
    assert not CREDENTIALS.verify(Incarnation("bob", BOB.peer_id), b"genesis", SIGNATURE)
    assert not CREDENTIALS.verify(WHO, b"genesis", IdentityCredentials(BOB).sign(b"genesis"))


def test_the_right_key_with_another_keys_signature_does_not_verify() -> None:
    _, other = canonical.decode_untrusted(
        IdentityCredentials(BOB).sign(b"genesis"), bytes_max=512, items_max=512
    )
    forged = canonical.encode([ALICE.spki_der, other])

    assert not CREDENTIALS.verify(WHO, b"genesis", forged)


@given(st.binary(max_size=600))
def test_garbage_is_a_no(data: bytes) -> None:
    assert not CREDENTIALS.verify(WHO, b"genesis", data)


@given(st.integers(0, len(SIGNATURE) - 1), st.integers(1, 255))
def test_no_changed_byte_survives(place: int, change: int) -> None:
    changed = bytearray(SIGNATURE)
    changed[place] ^= change

    assert not CREDENTIALS.verify(WHO, b"genesis", bytes(changed))


@pytest.mark.parametrize("value", [[], [b""], [1, 2], [b"", b"", b""], {"a": b""}, None])
def test_another_shape_is_a_no(value: object) -> None:
    assert not CREDENTIALS.verify(WHO, b"genesis", canonical.encode(value))


def test_a_key_of_another_kind_is_a_no() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    signature = canonical.encode([spki, key.sign(b"genesis")])

    assert not CREDENTIALS.verify(Incarnation("ed", peer_id_of_spki(spki)), b"genesis", signature)


def test_the_id_of_a_key_is_its_digest() -> None:
    spki = (
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )

    assert peer_id_of_spki(spki) != ALICE.peer_id
    assert peer_id_of_spki(ALICE.spki_der) == ALICE.peer_id
