"""JwtValidator: only a token by one of our keys, for this peer, and within its times, admits."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.errors import UnsupportedAlgorithmError
from joserfc.jwk import ECKey, OctKey, OKPKey

from attestation.collateral.freshness import ClockFloor, effective_now
from attestation.errors import MalformedError
from attestation.tickets import jwt as ticket_jwt
from attestation.tickets.jwt import (
    KEYS_MAX,
    TOKEN_BYTES_MAX,
    JwtKey,
    JwtRules,
    JwtValidator,
    _Registry,
    load_keys_untrusted,
)
from attestation.tickets.protocol import ANY_CLUSTER, ExpectedClaims, TicketRejectedError
from attestation.values import DURATION_MAX

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PEER = ExpectedClaims(
    peer_id=b"\x01" * 32, network_id=bytes(32), group_id=None, binding=None, cluster=ANY_CLUSTER
)
RULES = JwtRules(
    issuer="https://issuer.example",
    audience="bondstone",
    subject=None,
    required_claims={},
    max_age=None,
    max_lifetime=timedelta(hours=1),
    non_expiring=False,
)

SECRET = bytes(range(64))
PRIVATE: dict[str, Any] = {
    "HS256": OctKey.import_key(SECRET[:32]),
    "HS384": OctKey.import_key(SECRET[:48]),
    "HS512": OctKey.import_key(SECRET),
    "ES256": ECKey.generate_key("P-256"),
    "ES384": ECKey.generate_key("P-384"),
    "ES512": ECKey.generate_key("P-521"),
    "EdDSA": OKPKey.generate_key("Ed25519"),
}


def key_set(*items: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(items)}).encode()


def public(algorithm: str, **members: Any) -> dict[str, Any]:
    key = PRIVATE[algorithm]
    value = key.as_dict(private=algorithm.startswith("HS"))
    value.pop("kid", None)
    return {**value, "alg": algorithm, **members}


def keys(*items: dict[str, Any]) -> tuple[JwtKey, ...]:
    return load_keys_untrusted(key_set(*items))


def claims(**changes: Any) -> dict[str, Any]:
    now = int(NOW.timestamp())
    value = {
        "iss": "https://issuer.example",
        "aud": "bondstone",
        "sub": PEER.peer_id.hex(),
        "iat": now - 60,
        "exp": now + 600,
    }
    return {name: item for name, item in {**value, **changes}.items() if item is not None}


def token(payload: dict[str, Any] | bytes, algorithm: str = "ES256", key: Any = None, **header: Any) -> bytes:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    private = PRIVATE[algorithm] if key is None else key
    return jws.serialize_compact({"alg": algorithm, **header}, body, private, registry=_Registry()).encode()


def validator(*items: dict[str, Any], **changes: Any) -> JwtValidator:
    rules = {name: getattr(RULES, name) for name in RULES.__slots__} | changes
    return JwtValidator(keys=keys(*(items or (public("ES256"),))), rules=JwtRules(**rules))


def reason(judge: JwtValidator, ticket: bytes, now: datetime = NOW) -> str:
    with pytest.raises(TicketRejectedError) as caught:
        judge.validate(ticket, PEER, now)
    return caught.value.reason


@pytest.mark.parametrize("algorithm", sorted(PRIVATE))
def test_every_algorithm_of_the_family_admits_and_expires_with_the_token(algorithm: str) -> None:
    expiration = validator(public(algorithm)).validate(token(claims(), algorithm), PEER, NOW)

    assert expiration.at == NOW + timedelta(seconds=600)
    assert expiration.appraisal["algorithm"] == algorithm
    assert expiration.appraisal["mock"] is False


@pytest.mark.parametrize("algorithm", sorted(PRIVATE))
def test_a_token_with_one_changed_signature_byte_is_refused(algorithm: str) -> None:
    head, _, signature = token(claims(), algorithm).rpartition(b".")
    raw = bytearray(base64.urlsafe_b64decode(signature + b"=="))
    raw[len(raw) // 2] ^= 1
    forged = head + b"." + base64.urlsafe_b64encode(bytes(raw)).rstrip(b"=")

    assert reason(validator(public(algorithm)), forged) == "jwt-signature"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"iss": "https://other.example"}, "jwt-issuer", id="other-issuer"),
        pytest.param({"iss": None}, "jwt-issuer", id="no-issuer"),
        pytest.param({"aud": "other"}, "jwt-audience", id="other-audience"),
        pytest.param({"aud": ["other", "bondstones"]}, "jwt-audience", id="not-in-list"),
        pytest.param({"aud": None}, "jwt-audience", id="no-audience"),
        pytest.param({"sub": "02" * 32}, "jwt-subject", id="other-peer"),
        pytest.param({"sub": None}, "jwt-subject", id="no-subject"),
        pytest.param({"exp": int(NOW.timestamp())}, "jwt-expired", id="expires-now"),
        pytest.param({"exp": None}, "jwt-never-expires", id="never-expires"),
        pytest.param({"exp": True}, "jwt-malformed", id="exp-bool"),
        pytest.param({"exp": "soon"}, "jwt-malformed", id="exp-text"),
        pytest.param({"exp": 10**18}, "jwt-malformed", id="exp-beyond-time"),
        pytest.param({"nbf": int(NOW.timestamp()) + 301}, "jwt-not-yet-valid", id="not-yet"),
        pytest.param({"iat": int(NOW.timestamp()) + 301}, "jwt-from-the-future", id="future"),
        pytest.param({"iat": None}, "jwt-iat-missing", id="no-iat"),
        pytest.param({"exp": int(NOW.timestamp()) + 3541}, "jwt-lifetime", id="too-long-a-life"),
    ],
)
def test_a_token_with_other_claims_is_refused(changes: dict[str, Any], expected: str) -> None:
    assert reason(validator(), token(claims(**changes))) == expected


def test_the_limits_of_the_times_are_inclusive_where_they_should_be() -> None:
    now = int(NOW.timestamp())
    ahead = claims(nbf=now + 300, iat=now + 300, exp=now + 301)

    assert validator().validate(token(ahead), PEER, NOW).at == NOW + timedelta(seconds=301)
    lifetime = claims(iat=now - 60, exp=now + 3540)
    assert validator().validate(token(lifetime), PEER, NOW).at == NOW + timedelta(seconds=3540)


def test_an_audience_list_that_names_us_is_accepted() -> None:
    ticket = token(claims(aud=["other", "bondstone"]))

    assert validator().validate(ticket, PEER, NOW).at is not None


def test_max_age_refuses_old_tokens_and_ends_the_admission() -> None:
    judge = validator(max_age=timedelta(minutes=2))

    assert judge.validate(token(claims()), PEER, NOW).at == NOW + timedelta(seconds=60)
    assert reason(judge, token(claims()), NOW + timedelta(seconds=61)) == "jwt-too-old"


def test_a_clock_ahead_of_ours_does_not_lengthen_max_age() -> None:
    now = int(NOW.timestamp())
    judge = validator(max_age=timedelta(minutes=2))
    ticket = token(claims(iat=now + 200))

    assert judge.validate(ticket, PEER, NOW).at == NOW + timedelta(minutes=2)


def test_a_token_without_expiry_is_accepted_only_when_allowed() -> None:
    judge = validator(non_expiring=True, max_lifetime=None)

    assert judge.validate(token(claims(exp=None, iat=None)), PEER, NOW).at is None


@pytest.mark.parametrize(
    ("required", "actual"),
    [("prod", "test"), ("prod", None), (1, True), (True, 1), (1, "1"), ("prod", ["prod"])],
)
def test_a_required_claim_needs_exactly_its_value_and_type(required: Any, actual: Any) -> None:
    judge = validator(required_claims={"stage": required})

    assert reason(judge, token(claims(stage=actual))) == "jwt-claim"
    assert judge.validate(token(claims(stage=required)), PEER, NOW).appraisal["claims"] == {"stage": required}


def test_a_fixed_subject_replaces_the_peers_id() -> None:
    judge = validator(subject="node-1")

    assert reason(judge, token(claims())) == "jwt-subject"
    assert judge.validate(token(claims(sub="node-1")), PEER, NOW).at is not None


# ---- attacks on the signature -----------------------------------------------------------------------


def test_algorithm_none_is_refused() -> None:
    head = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")

    assert reason(validator(), head + b"." + body + b".") == "jwt-algorithm"


def test_a_public_key_used_as_an_hmac_secret_is_refused() -> None:
    """The classic confusion: HS256 with the bytes of the verifier's public ES256 key."""
    pem = PRIVATE["ES256"].as_pem(private=False)
    library_key = OctKey.import_key(SECRET[:32])
    library_key._raw_value = pem  # the library itself refuses to import a PEM as a secret
    forged = token(claims(), "HS256", library_key)

    assert reason(validator(), forged) == "jwt-algorithm"


def test_a_weaker_algorithm_than_the_keys_own_is_refused() -> None:
    secret = OctKey.import_key(SECRET)

    assert reason(validator(public("HS512")), token(claims(), "HS256", secret)) == "jwt-algorithm"


def test_a_key_inside_the_token_is_ignored() -> None:
    attacker = ECKey.generate_key("P-256")
    ticket = token(claims(), "ES256", attacker, jwk=attacker.as_dict(private=False))

    assert reason(validator(), ticket) == "jwt-signature"


def with_header(text: str | bytes) -> bytes:
    """A token that is signed over this very header."""
    data = text.encode() if isinstance(text, str) else text
    parts = [base64.urlsafe_b64encode(item).rstrip(b"=") for item in (data, json.dumps(claims()).encode())]
    signing_input = b".".join(parts)
    key = PRIVATE["ES256"]
    signature = jws.JWSRegistry.algorithms["ES256"].sign(signing_input, key)
    return signing_input + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")


PLAIN = '{"alg":"ES256"}'


@pytest.mark.parametrize(
    "header",
    [
        '{"alg":"none","alg":"ES256"}',
        '{"alg":"ES256","alg":"ES256"}',
        '{"kid":"a","alg":"ES256","kid":"b"}',
        '{"alg":"ES256","x":{"y":1,"y":2}}',
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.encode("utf-16"),
        PLAIN.encode("utf-16-le"),
        PLAIN.encode("utf-16-be"),
        PLAIN.encode("utf-32"),
        b'{"alg":"ES256","kid":"\xff"}',
        PLAIN + "{}",
        '{"alg":"ES256","kid":NaN}',
        '{"alg":"ES256","x":' + "[" * 64 + "]" * 64 + "}",
    ],
)
def test_a_header_that_two_readers_understand_differently_is_refused(header: str | bytes) -> None:
    judge = validator()
    assert judge.validate(with_header(PLAIN), PEER, NOW).appraisal["accepted"]

    assert reason(judge, with_header(header)) == "jwt-malformed"


@pytest.mark.parametrize("segment", [0, 1, 2])
@pytest.mark.parametrize(
    "change", [lambda part: part + b"=", lambda part: part + b"\n", lambda part: part + b"A" * 5]
)
def test_base64url_has_one_right_form_in_every_part_of_a_token(
    segment: int, change: Callable[[bytes], bytes]
) -> None:
    parts = with_header(PLAIN).split(b".")
    parts[segment] = change(parts[segment])

    assert reason(validator(), b".".join(parts)) in {"jwt-malformed", "jwt-signature"}


def test_bits_beyond_the_last_byte_of_a_signature_do_not_make_another_token() -> None:
    ticket = with_header(PLAIN)
    digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # 64 bytes leave four bits of the last digit unused.
    other = ticket[:-1] + digits[digits.index(ticket[-1:]) + 1 :][:1]

    assert reason(validator(), other) == "jwt-malformed"


# Order 1, 2, 4 and 8, the neutral point with a y that is not reduced, and bytes that are no point of the curve.
BAD_POINTS = {
    "order 1": "01" + "00" * 31,
    "order 2": "ec" + "ff" * 30 + "7f",
    "order 4": "00" * 32,
    "order 8": "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "other sign": "01" + "00" * 30 + "80",
    "not reduced": "ee" + "ff" * 30 + "7f",
    "no point": "02" + "00" * 31,
    "y above p": "f0" + "ff" * 30 + "7f",
}


def ed25519(raw: bytes) -> dict[str, Any]:
    return {
        "kty": "OKP",
        "crv": "Ed25519",
        "alg": "EdDSA",
        "x": base64.urlsafe_b64encode(raw).rstrip(b"=").decode(),
    }


@pytest.mark.parametrize("encoded", BAD_POINTS.values(), ids=BAD_POINTS)
def test_an_ed25519_key_with_a_weak_or_invalid_point_is_not_loaded(encoded: str) -> None:
    with pytest.raises(MalformedError, match=r"small order|point of the curve") as caught:
        keys(ed25519(bytes.fromhex(encoded)))

    assert caught.value.reason == "jwt-keys-malformed"


def test_with_a_key_of_small_order_a_forged_token_would_be_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack that the check stops: the neutral point as R, and s = 0, are a signature of everything."""
    monkeypatch.setattr(ticket_jwt, "unusable_key", lambda _: None)
    neutral = bytes.fromhex(BAD_POINTS["order 1"])
    parts = [PLAIN.replace("ES256", "EdDSA").encode(), json.dumps(claims()).encode(), neutral + bytes(32)]
    forged = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)

    assert validator(ed25519(neutral)).validate(forged, PEER, NOW).appraisal["accepted"]


@pytest.mark.parametrize("key_ops", [["sign"], [], ["encrypt"], ["deriveKey", "sign"]])
@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "HS256"])
def test_a_key_that_may_not_verify_is_refused_when_it_is_loaded_and_not_with_every_token(
    algorithm: str, key_ops: list[str]
) -> None:
    with pytest.raises(MalformedError, match="key_ops") as caught:
        keys(public(algorithm, key_ops=key_ops))

    assert caught.value.reason == "jwt-keys-malformed"
    judge = validator(public(algorithm, key_ops=["verify"]))
    assert judge.validate(token(claims(), algorithm), PEER, NOW).appraisal["accepted"]


@pytest.mark.parametrize("limit", ["max_age", "max_lifetime"])
def test_a_limit_too_long_to_be_meant_is_refused_and_the_longest_one_admits(limit: str) -> None:
    for wrong in (timedelta.max, DURATION_MAX + timedelta(seconds=1), timedelta(0), timedelta(seconds=-1)):
        with pytest.raises(ValueError, match=limit):
            validator(**{limit: wrong})

    assert validator(**{limit: DURATION_MAX}).validate(token(claims()), PEER, NOW).appraisal["accepted"]


def test_a_token_is_refused_by_name_when_the_clock_is_at_the_end_of_time() -> None:
    floor = ClockFloor(at=NOW, source="build-date")
    now = effective_now(datetime.max.replace(tzinfo=UTC), floor)

    assert reason(validator(max_age=DURATION_MAX), token(claims()), now) == "jwt-expired"


def test_critical_headers_are_refused() -> None:
    head = base64.urlsafe_b64encode(b'{"alg":"ES256","crit":["exp"],"exp":1}').rstrip(b"=")

    assert reason(validator(), head + b".e30.AAAA") == "jwt-header"


def test_an_unencoded_payload_is_refused() -> None:
    head = base64.urlsafe_b64encode(b'{"alg":"ES256","b64":false,"crit":["b64"]}').rstrip(b"=")

    assert reason(validator(), head + b".{}.AAAA") == "jwt-header"


@pytest.mark.parametrize("header", [{"typ": 5}, {"unheard-of": 1}, {"alg": 5}, {"alg": None}])
def test_headers_that_no_standard_knows_are_refused(header: dict[str, Any]) -> None:
    head = base64.urlsafe_b64encode(json.dumps({"alg": "ES256", **header}).encode()).rstrip(b"=")

    assert reason(validator(), head + b"." + token(claims()).partition(b".")[2]) == "jwt-malformed"


@pytest.mark.parametrize("algorithm", ["none", "RS256", "ES256K", "HS1"])
def test_the_library_is_never_asked_for_another_algorithm(algorithm: str) -> None:
    with pytest.raises(UnsupportedAlgorithmError):
        _Registry().get_alg(algorithm)


# ---- keys -------------------------------------------------------------------------------------------


def test_rotation_finds_the_key_by_kid_or_by_trying() -> None:
    old, new = ECKey.generate_key("P-256"), ECKey.generate_key("P-256")
    members = [
        {**key.as_dict(private=False), "alg": "ES256", "kid": kid}
        for key, kid in ((old, "old"), (new, "new"))
    ]
    judge = JwtValidator(keys=keys(*members), rules=RULES)

    assert judge.validate(token(claims(), "ES256", new, kid="new"), PEER, NOW).appraisal["kid"] == "new"
    assert judge.validate(token(claims(), "ES256", new), PEER, NOW).appraisal["kid"] == "new"
    assert reason(judge, token(claims(), "ES256", new, kid="old")) == "jwt-signature"
    assert reason(judge, token(claims(), "ES256", new, kid="elder")) == "jwt-key-unknown"


def test_a_key_that_was_rotated_out_admits_no_peer() -> None:
    ticket = token(claims())

    assert validator().validate(ticket, PEER, NOW).at is not None
    replaced = {**ECKey.generate_key("P-256").as_dict(private=False), "alg": "ES256"}
    replaced.pop("kid", None)
    assert reason(validator(replaced), ticket) == "jwt-signature"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        pytest.param(lambda: {"kty": "oct", "k": "AAAA"}, "needs an alg", id="no-alg"),
        pytest.param(lambda: {**public("ES256"), "alg": "RS256"}, "needs an alg", id="rsa"),
        pytest.param(lambda: {**public("ES256"), "alg": "none"}, "needs an alg", id="none"),
        pytest.param(lambda: {**public("ES256"), "alg": "ES384"}, "must be EC P-384", id="curve"),
        pytest.param(lambda: {**public("ES256"), "alg": "HS256"}, "must be oct", id="confusion"),
        pytest.param(lambda: {**public("ES256"), "use": "enc"}, "not for signatures", id="use"),
        pytest.param(lambda: {**public("ES256"), "x": "AAAA"}, "cannot be read", id="off-curve"),
        pytest.param(
            lambda: {**PRIVATE["ES256"].as_dict(private=True), "alg": "ES256"}, "private", id="private"
        ),
        pytest.param(lambda: {**public("HS256"), "alg": "HS512"}, "needs 64", id="short-secret"),
        pytest.param(lambda: "key", "is not an object", id="text"),
    ],
)
def test_a_key_set_that_is_not_safe_to_use_is_refused(change: Callable[[], Any], text: str) -> None:
    with pytest.raises(MalformedError, match=text) as caught:
        keys(change())

    assert caught.value.reason == "jwt-keys-malformed"


def test_a_key_set_has_limits() -> None:
    for data in (key_set(), key_set(*[public("ES256")] * (KEYS_MAX + 1)), b"[]", b"{", b"\xff"):
        with pytest.raises(MalformedError):
            load_keys_untrusted(data)
    with pytest.raises(MalformedError, match="same kid"):
        keys(public("ES256", kid="a"), public("ES384", kid="a"))


def test_rules_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ValueError, match="never expires"):
        validator(non_expiring=True)
    with pytest.raises(ValueError, match="empty"):
        validator(issuer="")
    with pytest.raises(ValueError, match="keys"):
        JwtValidator(keys=(), rules=RULES)


# ---- the validator's signature ----------------------------------------------------------------------


def test_the_signature_does_not_depend_on_the_order_of_keys() -> None:
    one, two = public("ES256", kid="1"), public("HS256", kid="2")

    assert validator(one, two).signature == validator(two, one).signature
    assert (validator().ticket_class, validator().mock) == ("jwt", False)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: validator(public("ES384")), id="key"),
        pytest.param(lambda: validator(public("ES256", kid="a")), id="kid"),
        pytest.param(lambda: validator(issuer="x"), id="issuer"),
        pytest.param(lambda: validator(audience="x"), id="audience"),
        pytest.param(lambda: validator(subject="x"), id="subject"),
        pytest.param(lambda: validator(required_claims={"a": 1}), id="claim"),
        pytest.param(lambda: validator(required_claims={"a": True}), id="claim-type"),
        pytest.param(lambda: validator(max_age=timedelta(hours=1)), id="max-age"),
        pytest.param(lambda: validator(max_lifetime=timedelta(hours=2)), id="max-lifetime"),
        pytest.param(lambda: validator(max_lifetime=None), id="no-max-lifetime"),
        pytest.param(lambda: validator(max_lifetime=None, non_expiring=True), id="non-expiring"),
    ],
)
def test_whatever_changes_a_verdict_changes_the_signature(other: Callable[[], JwtValidator]) -> None:
    others = {
        validator().signature,
        validator(required_claims={"a": 2}).signature,
    }

    assert other().signature not in others


# ---- foreign bytes ----------------------------------------------------------------------------------


def test_an_oversized_token_is_refused_before_it_is_parsed() -> None:
    assert reason(validator(), b"." * (TOKEN_BYTES_MAX + 1)) == "jwt-too-large"


def test_every_truncation_of_a_token_is_refused() -> None:
    whole = token(claims())
    judge = validator()

    assert all(reason(judge, whole[:size]) for size in range(len(whole)))


@pytest.mark.parametrize("payload", [b"", b"[]", b"{", b'{"iss":"a","iss":"b"}', b"\xff", b"NaN"])
def test_a_signed_payload_that_is_not_one_strict_object_is_refused(payload: bytes) -> None:
    assert reason(validator(), token(payload)) == "jwt-malformed"


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_by_name(data: bytes) -> None:
    assert reason(FUZZED, data)


@given(
    st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]),
        st.none() | st.text() | st.integers() | st.lists(st.text()),
    ),
    st.binary(max_size=60),
)
def test_any_header_is_refused_by_name(header: dict[str, Any], rest: bytes) -> None:
    head = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=")

    assert reason(FUZZED, head + b"." + rest)


FUZZED = validator()
