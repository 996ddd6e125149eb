"""A verdict for a relying party's program: an attestation result in the form of EAR (draft-fv-rats-ear),
which is an EAT (RFC 9711). It has the form of JSON claims or, if it is signed, of a JWT (RFC 7519).

``ear.status`` is "affirming" for accepted, "contraindicated" for refused, "none" for undecided. A relying
party can distinguish the verdicts by this claim alone. Unsigned claims are for the calling process. If it
sends them on, it must sign them.
"""

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from attestation.verdict import EXIT_ACCEPTED, EXIT_REFUSED, VerificationReport
from node.client.inputs import read_file
from node.errors import ConfigError

PROFILE: Final = "tag:github.com,2023:veraison/ear"
MEDIA_TYPE: Final = "eat+jwt"
ALGORITHM: Final = "ES256"
KEY_BYTES_MAX: Final = 64 * 1024
_STATUS: Final = {EXIT_ACCEPTED: "affirming", EXIT_REFUSED: "contraindicated"}


def ear_claims(report: VerificationReport, *, nonce: bytes | None, issued_at: datetime) -> dict[str, Any]:
    """Return the claims of a result.

    Args:
        report: the result of the verification.
        nonce: the nonce that REPORTDATA was compared with; None if it was not compared.
        issued_at: aware; when the verdict was made, not the time that it is for (``bondstone.judged_at``).
    """
    value = report.value
    submodule = {
        "ear.status": _STATUS.get(report.exit_code, "none"),
        "ear.appraisal-policy-id": f"bondstone:{value['policy']['signature']}",
        "bondstone.judged_at": value["now"],
        "bondstone.reason": value["reason"],
        "bondstone.tcb_status": value["status"],
        "bondstone.advisory_ids": value["advisory_ids"],
        "bondstone.measurements": value["measurements"],
        "bondstone.report_data": value["report_data"],
        "bondstone.not_checked": value["not_checked"],
        "bondstone.any_td": value["any_td"],
        "bondstone.trust_root": value["trust_root"],
        "bondstone.valid_until": value["valid_until"],
    }
    claims: dict[str, Any] = {
        "eat_profile": PROFILE,
        "iat": int(issued_at.timestamp()),
        "ear.verifier-id": {"developer": "bondstone", "build": f"bondstone {version('bondstone')}"},
        "submods": {"tdx": submodule},
    }
    if nonce is not None:
        claims["eat_nonce"] = nonce.hex()
    if value["valid_until"] is not None:
        claims["exp"] = int(datetime.fromisoformat(value["valid_until"]).astimezone(UTC).timestamp())
    return claims


def signed(claims: dict[str, Any], key_file: Path) -> str:
    """Return the claims as a JWT, signed with a P-256 key; its ``kid`` is the key's thumbprint (RFC 7638).

    Raises:
        ConfigError: the file does not hold such a private key.
    """
    data = read_file(key_file, what="signing key", bytes_max=KEY_BYTES_MAX, secret=True)
    try:
        key = ECKey.import_key(data)
    except (JoseError, ValueError, TypeError) as exc:
        raise ConfigError(f"{key_file} holds no private key on P-256, PEM without a passphrase") from exc
    if not key.is_private or key.curve_name != "P-256":
        raise ConfigError(f"{key_file} holds no private key on P-256")
    header = {"alg": ALGORITHM, "typ": MEDIA_TYPE, "kid": key.thumbprint()}
    return jwt.encode(header, claims, key, algorithms=[ALGORITHM])
