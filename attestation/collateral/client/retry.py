"""What an HTTP status means for collateral, and when to retry. Sans-IO.

Only a failure that may pass by itself is retried. A 404 for TCB info is an answer, not a fault: Intel does
not know the platform (or it has no TDX).
"""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from attestation.collateral.client.requests import CollateralItem, Request
from attestation.errors import EndorsementsUnavailableError

ATTEMPTS_MAX: Final = 4
BACKOFF_S: Final = 0.5
BACKOFF_S_MAX: Final = 8.0
# A source that requests a longer wait than this is treated as down for now.
RETRY_AFTER_S_MAX: Final = 30.0
_RETRYABLE: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


def backoff_s(attempt: int, jitter: float) -> float:
    """Return the seconds to wait after attempt 0, 1, …: doubling, spread over its upper half.

    Args:
        attempt: the one that just failed, from 0.
        jitter: in [0, 1), from the caller's source of randomness.
    """
    step: float = min(BACKOFF_S * 2.0**attempt, BACKOFF_S_MAX)
    return step * (0.5 + jitter / 2)


def retry_after_s_untrusted(value: str | None, now: datetime) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110 10.2.3); None if absent or not understood."""
    if value is None or len(value) > 64 or not value.isascii():
        return None
    value = value.strip()
    if value.isdigit():
        return float(int(value[:9]))
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # RFC 5322's "-0000" means UTC, but the parser returns a naive time for it.
    aware = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (aware - now).total_seconds())


def is_retryable(status: int) -> bool:
    """Return whether the same request may well succeed a little later."""
    return status in _RETRYABLE


def error_of_status(request: Request, status: int) -> EndorsementsUnavailableError:
    """Return the error for an answer that is not 200."""
    values = {"item": str(request.item), "status": status}
    if status == 404 and request.item is CollateralItem.TCB_INFO:
        return EndorsementsUnavailableError(
            "platform-unknown",
            "the source knows no TDX TCB info for this FMSPC (404): the platform is unknown, or has no TDX",
            values=values,
        )
    reason, text = _meaning(status)
    return EndorsementsUnavailableError(reason, f"{request.item}: {text} ({status})", values=values)


def _meaning(status: int) -> tuple[str, str]:
    # 460 to 462 are PCCS' own codes.
    match status:
        case 404 | 461 | 462:
            return "collateral-not-found", "the source does not have it"
        case 410:
            return "evaluation-number-gone", "this tcbEvaluationDataNumber is no longer served"
        case 400:
            return "collateral-request-refused", "the source calls the request bad"
        case 401 | 403:
            return "collateral-access-refused", "the source wants credentials that are not needed"
        case _ if 300 <= status < 400:
            return "collateral-redirected", "the source redirects, and redirects are not followed"
        case _ if status in _RETRYABLE:
            return "collateral-source-failing", "the source keeps failing"
        case _:
            return "collateral-source-error", "the source answers with an error"
