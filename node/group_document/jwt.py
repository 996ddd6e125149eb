"""The token that every peer must show beside its quote: ``[jwt]``."""

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from attestation.encoding.canonical import encode
from attestation.encoding.toml_tables import TableError
from attestation.errors import MalformedError
from attestation.tickets.jwt import JwtKey, JwtRules, load_keys_untrusted
from node.group_document.tables import INTEGER_MAX, JwtTable

_JWT_LIFETIME: Final = timedelta(seconds=24 * 3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtAdmission:
    """The token that is required beside the quote."""

    keys: tuple[JwtKey, ...]
    rules: JwtRules


def jwt_of(table: JwtTable) -> JwtAdmission:
    """Return the keys and the rules.

    Raises:
        TableError: a key cannot be used, or is secret, or a claim is not a 64-bit integer.
    """
    for name, value in table.required_claims.items():
        if type(value) is int and not -INTEGER_MAX <= value <= INTEGER_MAX:
            raise TableError(f"jwt.required_claims.{name}", "is not a 64-bit integer")
    if any(key.get("kty") == "oct" for key in table.keys):
        raise TableError(
            "jwt.keys",
            "a group document is public and cannot hold a secret key: use a key that signs (ES256, EdDSA)",
        )
    try:
        keys = load_keys_untrusted(json.dumps({"keys": table.keys}).encode())
        rules = JwtRules(
            issuer=table.issuer,
            audience=table.audience,
            subject=table.subject,
            required_claims=table.required_claims,
            max_age=None if table.max_age_s is None else timedelta(seconds=table.max_age_s),
            max_lifetime=timedelta(seconds=table.max_lifetime_s),
            non_expiring=False,
        )
    except MalformedError as exc:
        raise TableError("jwt.keys", exc.message) from exc
    return JwtAdmission(keys=keys, rules=rules)


def canonical_jwt(jwt: JwtAdmission) -> dict[str, Any]:
    """Return what of it the canonical document has."""
    rules = jwt.rules
    out: dict[str, Any] = {
        "issuer": rules.issuer,
        "audience": rules.audience,
        "keys": sorted(([key.algorithm, key.kid, key.public_der] for key in jwt.keys), key=encode),
    }
    if rules.subject is not None:
        out["subject"] = rules.subject
    if rules.required_claims:
        out["required_claims"] = dict(rules.required_claims)
    if rules.max_age is not None:
        out["max_age_s"] = int(rules.max_age.total_seconds())
    if rules.max_lifetime != _JWT_LIFETIME and rules.max_lifetime is not None:
        out["max_lifetime_s"] = int(rules.max_lifetime.total_seconds())
    return out
