"""Evidence of a mock authority with one thing changed: what attack tests are made of."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from attestation.collateral.endorsements import Endorsements, verify_endorsements
from attestation.errors import AttestationError
from attestation.quote.codec import TDReportExtension, encode_quote, parse_quote_untrusted
from attestation.verifier import VerifiedQuote, verify_quote
from enclave.mock.authority import MockAuthority
from enclave.mock.statement import Statement
from enclave.mock.td import TDSettings

NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
# Every field of a TD report of type 4 differs from the others, so that none is read as another.
EXTENSION = TDReportExtension(
    vm_id=1,
    td_id=b"\2" * 32,
    device_info_hash=b"\3" * 48,
    initial_service_td_hash=b"\4" * 48,
    initial_service_td_attributes=5,
    initial_cpu_svn=b"\6" * 16,
    initial_tee_tcb_svn=b"\7" * 16,
    initial_tee_fmspc=b"\x08" * 12,
    current_service_td_hash=b"\x09" * 48,
    current_service_td_attributes=10,
)


@cache
def authority() -> MockAuthority:
    """Return one authority for all tests: making keys is slow, and nothing about it changes."""
    return MockAuthority.create(NOW)


def endorsements(statement: Statement | None = None) -> Endorsements:
    return authority().endorsements(NOW, statement)


def quote(settings: TDSettings | None = None) -> bytes:
    return authority().create_td(settings=settings).quote(REPORT_DATA)


def verified(
    settings: TDSettings | None = None, statement: Statement | None = None, now: datetime = NOW
) -> VerifiedQuote:
    """Return a quote of the mock authority, verified."""
    current = verify_endorsements(endorsements(statement), root=authority().trust_root, now=now)
    return verify_quote(quote(settings), current, now=now)


def resigned(
    member: str, change: Callable[[dict[str, Any]], None], base: Endorsements | None = None
) -> Endorsements:
    """Return endorsements whose ``tcb_info`` or ``qe_identity`` was changed and signed again, rightly."""
    base = base or endorsements()
    value = json.loads(getattr(base, member))
    change(value)
    return signed_as(member, json.dumps(value, separators=(",", ":")).encode(), base)


def signed_as(member: str, document: bytes, base: Endorsements | None = None) -> Endorsements:
    """Return endorsements with another document, signed by the TCB signer."""
    return replace(
        base or endorsements(),
        **{member: document, f"{member}_signature": authority().tcb_signer.sign_raw(document)},
    )


def rebuilt(raw: bytes, **changes: Any) -> bytes:
    """Return a quote with parts of its signature data exchanged, unsigned as they are."""
    quote = parse_quote_untrusted(raw)
    data = quote.signature_data
    parts: dict[str, Any] = {
        "signature": data.signature,
        "attestation_key": data.attestation_key,
        "qe_report": data.qe_report_bytes,
        "qe_report_signature": data.qe_report_signature,
        "qe_auth_data": data.qe_auth_data,
        "certification_type": data.certification_type,
        "certification_data": data.certification_data,
    }
    return encode_quote(quote.signed, **(parts | changes))


def reason_of(check: Callable[[], object], error: type[AttestationError]) -> str | None:
    """Return the reason with which ``check`` refuses, None if it does not; any other error escapes."""
    try:
        check()
    except error as exc:
        return exc.reason
    return None


def days(count: int) -> timedelta:
    return timedelta(days=count)
