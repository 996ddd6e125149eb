"""The authority's keys and signatures: what counts, and what is refused."""

import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from node.authority import KEYS_MAX, Authority, AuthorityError, AuthorityKey, authority_of, sign, spki_of

DIGEST = bytes(range(32))
ED_PREFIX = bytes.fromhex("302a300506032b6570032100")
KEYS = {
    "a": ed25519.Ed25519PrivateKey.from_private_bytes(b"a" * 32),
    "b": ec.derive_private_key(0xB0B, ec.SECP256R1()),
    "c": ed25519.Ed25519PrivateKey.from_private_bytes(b"c" * 32),
}


def authority(threshold=2):
    return authority_of(threshold, [AuthorityKey.of(kid, spki_of(key)) for kid, key in KEYS.items()])


def signed(*kids, digest=DIGEST):
    return [(kid, sign(KEYS[kid], digest)) for kid in kids]


def refusal(signatures, threshold=2):
    with pytest.raises(AuthorityError) as caught:
        authority(threshold).require_signed(DIGEST, signatures)
    return caught.value.reason


def test_as_many_keys_as_the_threshold_asks_for_suffice_in_whatever_order():
    for count in (2, 3):
        for kids in itertools.permutations("abc", count):
            authority().require_signed(DIGEST, signed(*kids))


def test_too_few_signatures_are_refused():
    assert refusal([]) == "authority-threshold"
    for kid in "abc":
        assert refusal(signed(kid)) == "authority-threshold"
    assert refusal(signed("a", "b"), threshold=3) == "authority-threshold"


def test_one_key_counts_once():
    assert refusal(signed("a", "a")) == "authority-signature-repeated"


def test_one_key_under_two_ids_cannot_be_listed():
    spki = spki_of(KEYS["a"])
    with pytest.raises(ValueError, match="distinct"):
        authority_of(2, [AuthorityKey.of("x", spki), AuthorityKey.of("y", spki)])


def test_a_wrong_signature_is_refused_even_beside_enough_right_ones():
    for kid in "abc":
        others = [other for other in "abc" if other != kid]
        wrong = [(kid, sign(KEYS[kid], bytes(32)))]
        assert refusal([*signed(*others), *wrong]) == "authority-signature-invalid"
        assert refusal([*signed(*others), (kid, b"")]) == "authority-signature-invalid"
        assert refusal([*signed(*others), (kid, bytes(64))]) == "authority-signature-invalid"


def test_a_key_that_is_not_listed_is_refused():
    assert refusal([*signed("a", "b"), ("d", sign(KEYS["c"], DIGEST))]) == "authority-key-unknown"
    # the signature of a listed key under another listed key's id
    assert refusal([("a", sign(KEYS["c"], DIGEST)), *signed("b")]) == "authority-signature-invalid"


@pytest.mark.parametrize(("threshold", "count"), [(0, 1), (2, 1), (1, 0), (1, KEYS_MAX + 1)])
def test_a_threshold_that_cannot_be_met_is_refused(threshold, count):
    keys = [
        AuthorityKey.of(f"k{number:02}", spki_of(ec.derive_private_key(number + 1, ec.SECP256R1())))
        for number in range(count)
    ]
    with pytest.raises(ValueError, match="threshold"):
        authority_of(threshold, keys)


def unusable(spki):
    with pytest.raises(AuthorityError) as caught:
        AuthorityKey.of("k", spki)
    return caught.value.reason == "authority-key-unusable"


def test_keys_of_other_types_are_refused():
    for other in (
        ec.derive_private_key(5, ec.SECP384R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ):
        assert unusable(other.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    assert unusable(b"")
    assert unusable(spki_of(KEYS["a"])[:-1])
    assert unusable(spki_of(KEYS["a"]) + b"\0")
    compressed = KEYS["b"].public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    assert unusable(bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + compressed)


# RFC 7748's curve in Edwards form has eight points of small order; these are their encodings, the ones with a y
# that is not reduced too.
SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


@pytest.mark.parametrize("encoded", SMALL_ORDER)
def test_a_point_of_small_order_is_no_key(encoded):
    assert unusable(ED_PREFIX + bytes.fromhex(encoded))


def test_with_a_point_of_small_order_anyone_could_sign():
    """The attack that the check stops: R the neutral point and s zero verify for every message."""
    neutral = load_der_public_key(ED_PREFIX + bytes.fromhex(SMALL_ORDER[2]))
    forged = bytes.fromhex(SMALL_ORDER[2]) + bytes(32)

    neutral.verify(forged, b"any message at all")
    neutral.verify(forged, b"and any other")


def test_signatures_of_both_algorithms_are_64_bytes():
    assert {kid: len(sign(key, DIGEST)) for kid, key in KEYS.items()} == {"a": 64, "b": 64, "c": 64}
    assert [key.algorithm for key in authority().keys] == ["ed25519", "es256", "ed25519"]
    assert isinstance(authority(), Authority)
    assert authority().kid_of(KEYS["b"]) == "b"
    with pytest.raises(AuthorityError, match="not one of the group's"):
        authority().kid_of(ed25519.Ed25519PrivateKey.from_private_bytes(b"z" * 32))
