"""Admission by JSON Web Tokens (RFC 7519, RFC 8725): a trusted issuer vouches for the peer's key.

The subject is the peer's id, so a token that is copied is of no use without the key it names. The algorithm
is a property of each key, never the token's choice, so there is no confusion of algorithms and no "none".
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jws
from joserfc.errors import BadSignatureError, JoseError, UnsupportedAlgorithmError
from joserfc.jwk import ECKey, OctKey, OKPKey

from attestation.collateral.signed_json import parse_json_untrusted
from attestation.encoding.canonical import digest
from attestation.errors import (
    AppraisalError,
    AttestationError,
    MalformedError,
    SignatureError,
)
from attestation.tickets.protocol import CLOCK_AHEAD_MAX, ExpectedClaims, Expiration, TicketRejectedError
from attestation.values import DURATION_MAX, timestamp
from attestation.x509.ed25519 import unusable_key

TICKET_CLASS: Final = "jwt"
TOKEN_BYTES_MAX: Final = 16 * 1024
KEYS_BYTES_MAX: Final = 64 * 1024
KEYS_MAX: Final = 16

# By algorithm: key type, curve, and the least secret bytes (RFC 7518 3.2: as many as the hash has).
_ALGORITHMS: Final[dict[str, tuple[str, str | None, int]]] = {
    "HS256": ("oct", None, 32),
    "HS384": ("oct", None, 48),
    "HS512": ("oct", None, 64),
    "ES256": ("EC", "P-256", 0),
    "ES384": ("EC", "P-384", 0),
    "ES512": ("EC", "P-521", 0),
    "EdDSA": ("OKP", "Ed25519", 0),
}
_KEY_TYPES: Final[dict[str, type[OctKey] | type[ECKey] | type[OKPKey]]] = {
    "oct": OctKey,
    "EC": ECKey,
    "OKP": OKPKey,
}
_SECONDS_MAX: Final = 253_402_300_799  # 9999-12-31T23:59:59Z


class _Registry(jws.JWSRegistry):
    """The algorithms above, and no opinion about which are recommended: the keys decide.

    The library warns of the name "EdDSA", because RFC 9864 wants a name with the curve; here the key has it.
    """

    def get_alg(self, name: str) -> Any:
        if name not in _ALGORITHMS:
            raise UnsupportedAlgorithmError(name)
        return self.algorithms[name]


_REGISTRY: Final = _Registry()


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtKey:
    """One key that a token may be signed with. Made by :func:`load_keys_untrusted`.

    Attributes:
        algorithm: the only one that this key is good for.
        kid: key id; None: tokens may name any, or none.
        key: the library's key.
    """

    algorithm: str
    kid: str | None
    key: OctKey | ECKey | OKPKey = field(repr=False)

    @property
    def digest(self) -> bytes:
        """32 bytes that identify the key, also a secret key: its length makes it unguessable."""
        return digest("bondstone/jwt-key/v1", self.algorithm, self.kid, self.key.thumbprint())

    @property
    def public_der(self) -> bytes:
        """DER of the SubjectPublicKeyInfo. Only for the public key of a signature algorithm."""
        key = self.key.raw_value
        assert isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey), "it has no public half"
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def load_keys_untrusted(data: bytes) -> tuple[JwtKey, ...]:
    """Read a JWK Set (RFC 7517). Every key must name its algorithm in ``alg``.

    Raises:
        MalformedError: ``jwt-keys-malformed``; the message has the wrong key and the cause.
    """
    value = parse_json_untrusted(data, code="jwt-keys", bytes_max=KEYS_BYTES_MAX)
    items = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(items, list) or not 1 <= len(items) <= KEYS_MAX:
        raise _malformed_keys(f'it is not a JWK Set: {{"keys": [1 to {KEYS_MAX} keys]}}')
    keys = tuple(_key_untrusted(number, item) for number, item in enumerate(items))
    named = [key.kid for key in keys if key.kid is not None]
    if len(set(named)) != len(named):
        raise _malformed_keys("two keys have the same kid")
    return keys


def _key_untrusted(number: int, item: Any) -> JwtKey:
    if not isinstance(item, dict):
        raise _malformed_keys(f"key {number} is not an object")
    algorithm, kid = item.get("alg"), item.get("kid")
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
        raise _malformed_keys(f"key {number} needs an alg, one of {', '.join(_ALGORITHMS)}")
    if not (kid is None or isinstance(kid, str)) or item.get("use", "sig") != "sig":
        raise _malformed_keys(f"key {number} has a kid that is not text, or is not for signatures")
    kty, curve, secret_bytes_min = _ALGORITHMS[algorithm]
    if item.get("kty") != kty or item.get("crv") != curve:
        raise _malformed_keys(f"key {number} is for {algorithm}, so it must be {kty} {curve or ''}")
    if "d" in item:
        raise _malformed_keys(f"key {number} is a private key; a verifier must not have it")
    try:
        key = _KEY_TYPES[kty].import_key(item)
        material = key.raw_value
    except (JoseError, ValueError, TypeError, KeyError) as exc:
        raise _malformed_keys(f"key {number} cannot be read") from exc
    try:
        # The library requires this of the key when it verifies: a key without it would refuse every token.
        key.check_key_op("verify")
        key.check_use("sig")
        key.check_alg(algorithm)
    except JoseError as exc:
        raise _malformed_keys(f"key {number} is not one to verify signatures with (key_ops, use)") from exc
    if isinstance(key, OKPKey) and (wrong := unusable_key(key.public_key.public_bytes_raw())) is not None:
        raise _malformed_keys(f"key {number} {wrong}")
    if isinstance(material, bytes) and len(material) < secret_bytes_min:
        raise _malformed_keys(
            f"key {number} has {len(material)} secret bytes, {algorithm} needs {secret_bytes_min}"
        )
    return JwtKey(algorithm=algorithm, kid=kid, key=key)


def _malformed_keys(text: str) -> MalformedError:
    return MalformedError("jwt-keys-malformed", f"the key set cannot be used: {text}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtRules:
    """What a token must contain.

    Attributes:
        issuer: ``iss``, exactly.
        audience: ``aud`` is it, or contains it.
        subject: ``sub``, exactly; None: the peer's id in lower-case hex.
        required_claims: further claims, with exactly these values.
        max_age: from ``iat`` to now; None: no limit.
        max_lifetime: from ``iat`` to ``exp``; None: no limit.
        non_expiring: whether a token without ``exp`` is accepted.
    """

    issuer: str
    audience: str
    subject: str | None
    required_claims: Mapping[str, str | int | bool]
    max_age: timedelta | None
    max_lifetime: timedelta | None
    non_expiring: bool

    def __post_init__(self) -> None:
        if not self.issuer or not self.audience or self.subject == "":
            raise ValueError("issuer, audience and subject must not be empty")
        if self.non_expiring and self.max_lifetime is not None:
            raise ValueError("a token that never expires has no lifetime to limit")
        for name, limit in (("max_age", self.max_age), ("max_lifetime", self.max_lifetime)):
            if limit is not None and not timedelta(0) < limit <= DURATION_MAX:
                raise ValueError(f"{name} must be more than zero and at most {DURATION_MAX.days} days")

    def canonical(self) -> dict[str, Any]:
        """Return every rule as plain data. It is built from the fields, so no rule can be forgotten."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: _seconds(value)
            if isinstance(value, timedelta)
            else dict(value)
            if isinstance(value, Mapping)
            else value
            for name, value in values.items()
        }


class JwtValidator:
    """Admits a peer if the owner of one of our keys has signed a token for its id.

    Args:
        keys: from :func:`load_keys_untrusted`; several, so that they can be rotated.
        rules: what a token must contain.
    """

    def __init__(self, *, keys: Sequence[JwtKey], rules: JwtRules) -> None:
        if not keys:
            raise ValueError("a validator without keys admits no peer; give at least one key")
        self._keys = tuple(keys)
        self._rules = rules

    @property
    def ticket_class(self) -> str:
        return TICKET_CLASS

    @property
    def signature(self) -> bytes:
        return digest(
            "bondstone/ticket-validator/v2",
            TICKET_CLASS,
            sorted(key.digest for key in self._keys),
            self._rules.canonical(),
        )

    @property
    def mock(self) -> bool:
        return False

    def validate(self, ticket: bytes, peer: ExpectedClaims, now: datetime) -> Expiration:
        """Return until when the token holds.

        Raises:
            TicketRejectedError: with the reason of its cause.
        """
        assert now.tzinfo is not None, "a time without a zone"
        try:
            key, claims = self._verify(ticket)
            self._require_claims(claims, peer)
            at = self._expiry(claims, now)
        except AttestationError as exc:
            raise TicketRejectedError.of(exc) from exc
        return Expiration(
            at=at,
            appraisal={
                "accepted": True,
                "mock": False,
                "algorithm": key.algorithm,
                "kid": key.kid,
                "issuer": claims["iss"],
                "subject": claims["sub"],
                "claims": {name: claims[name] for name in sorted(self._rules.required_claims)},
                "valid_until": None if at is None else timestamp(at),
            },
        )

    def _verify(self, token: bytes) -> tuple[JwtKey, dict[str, Any]]:
        header = _header_untrusted(token)
        kid, algorithm = header.get("kid"), header["alg"]
        candidates = [key for key in self._keys if kid is None or key.kid in (None, kid)]
        if not candidates:
            raise SignatureError(
                "jwt-key-unknown", "the token names a key that is not in the key set", values={"kid": kid}
            )
        fitting = [key for key in candidates if key.algorithm == algorithm]
        if not fitting:
            raise SignatureError(
                "jwt-algorithm",
                f"the token's algorithm {algorithm!r} is not that of the key",
                values={"expected": sorted({key.algorithm for key in candidates}), "actual": algorithm},
            )
        for key in fitting:
            try:
                verified = jws.deserialize_compact(token, key.key, registry=_REGISTRY)
            except BadSignatureError:
                continue
            except (JoseError, ValueError, TypeError) as exc:
                raise MalformedError(
                    "jwt-malformed", "the token's header or signature cannot be read"
                ) from exc
            claims = parse_json_untrusted(verified.payload, code="jwt", bytes_max=TOKEN_BYTES_MAX)
            if not isinstance(claims, dict):
                raise MalformedError("jwt-malformed", "the token's payload is not an object")
            return key, claims
        raise SignatureError("jwt-signature", "the token is not signed by any key of the key set")

    def _require_claims(self, claims: dict[str, Any], peer: ExpectedClaims) -> None:
        rules = self._rules
        _require_equal(claims, "iss", rules.issuer, "jwt-issuer")
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if rules.audience not in audiences:
            raise _claim_error("jwt-audience", "aud", rules.audience, audience)
        subject = peer.peer_id.hex() if rules.subject is None else rules.subject
        _require_equal(claims, "sub", subject, "jwt-subject")
        for name, expected in rules.required_claims.items():
            _require_equal(claims, name, expected, "jwt-claim")

    def _expiry(self, claims: dict[str, Any], now: datetime) -> datetime | None:
        rules = self._rules
        issued_at, not_before, expires_at = (_time(claims, name) for name in ("iat", "nbf", "exp"))
        if not_before is not None and now + CLOCK_AHEAD_MAX < not_before:
            raise _time_error("jwt-not-yet-valid", "nbf", not_before, now)
        if issued_at is not None and now + CLOCK_AHEAD_MAX < issued_at:
            raise _time_error("jwt-from-the-future", "iat", issued_at, now)
        if issued_at is None and (rules.max_age is not None or rules.max_lifetime is not None):
            raise AppraisalError("jwt-iat-missing", "the token has no time of issue (iat)")
        if expires_at is None and not rules.non_expiring:
            raise AppraisalError("jwt-never-expires", "the token has no expiry (exp), and must have one")
        # RFC 7519 4.1.4: on or after exp it must not be accepted.
        if expires_at is not None and now >= expires_at:
            raise _time_error("jwt-expired", "exp", expires_at, now)
        ends = [] if expires_at is None else [expires_at]
        if issued_at is not None and rules.max_age is not None:
            oldest = min(issued_at, now) + rules.max_age
            if now > oldest:
                raise _time_error("jwt-too-old", "iat", issued_at, now)
            ends.append(oldest)
        if (
            issued_at is not None
            and expires_at is not None
            and rules.max_lifetime is not None
            and expires_at - issued_at > rules.max_lifetime
        ):
            raise _time_error("jwt-lifetime", "exp", expires_at, now)
        return min(ends) if ends else None


def _header_untrusted(token: bytes) -> dict[str, Any]:
    if len(token) > TOKEN_BYTES_MAX:
        raise MalformedError("jwt-too-large", f"a token of {len(token)} bytes, at most {TOKEN_BYTES_MAX}")
    segments = token.split(b".")
    if len(segments) != 3:
        raise MalformedError("jwt-malformed", "the ticket is not a compact JWS")
    # Parsed strictly here: the library accepts UTF-16, a byte order mark, and the last of two equal names.
    encoded = _base64url_untrusted(segments[0])
    header = parse_json_untrusted(encoded, code="jwt", bytes_max=TOKEN_BYTES_MAX)
    if not isinstance(header, dict) or not isinstance(header.get("alg"), str):
        raise MalformedError("jwt-malformed", "the token's header names no algorithm")
    # RFC 8725 3.10 and RFC 7515 4.1.11: a token with a critical header that we do not understand is refused.
    if header.keys() & {"crit", "b64"} or not isinstance(header.get("kid", ""), str):
        raise MalformedError("jwt-header", "the token's header has crit or b64, or a kid that is not text")
    for segment in segments[1:]:
        _base64url_untrusted(segment)
    return header


def _base64url_untrusted(segment: bytes) -> bytes:
    """Decode base64url in its one right form: without padding, and without bits after the last byte."""
    try:
        out = base64.b64decode(segment + b"=" * (-len(segment) % 4), altchars=b"-_", validate=True)
    except ValueError as exc:
        raise MalformedError("jwt-malformed", "the ticket is not a compact JWS") from exc
    if base64.urlsafe_b64encode(out).rstrip(b"=") != segment:
        raise MalformedError("jwt-malformed", "the ticket is not canonical base64url")
    return out


def _require_equal(claims: dict[str, Any], name: str, expected: object, reason: str) -> None:
    actual = claims.get(name)
    # True == 1 in Python; in JSON they are different claims.
    if type(actual) is not type(expected) or actual != expected:
        raise _claim_error(reason, name, expected, actual)


def _claim_error(reason: str, name: str, expected: object, actual: object) -> AppraisalError:
    return AppraisalError(
        reason,
        f"the token's {name} is not the required value",
        values={"claim": name, "expected": expected, "actual": actual},
    )


def _time_error(reason: str, name: str, at: datetime, now: datetime) -> AppraisalError:
    return AppraisalError(
        reason,
        f"the token's {name} is {timestamp(at)}, now is {timestamp(now)}",
        values={name: timestamp(at), "now": timestamp(now)},
    )


def _time(claims: dict[str, Any], name: str) -> datetime | None:
    if name not in claims:
        return None
    value = claims[name]
    # NumericDate may have a fraction (RFC 7519 2); bool is an int in Python only.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _SECONDS_MAX:
        raise MalformedError("jwt-malformed", f"the token's {name} is not a time")
    return datetime.fromtimestamp(value, UTC)


def _seconds(duration: timedelta | None) -> int | None:
    return None if duration is None else int(duration.total_seconds())
