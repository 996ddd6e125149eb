"""Why a bond is refused or closed. The numbers are the ones of the system that bondstone follows."""

from dataclasses import dataclass
from enum import IntEnum


class RefusalCode(IntEnum):
    INVALID_HANDSHAKE = 30400
    NOT_ALLOWED = 30403
    GROUP_NOT_FOUND = 30404
    INVALID_PROOF = 30405
    TIMEOUT = 30408
    ALREADY_BONDED = 30429


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One refusal.

    Attributes:
        code: for the peer's program.
        reason: stable kebab-case, for logs and people.
        message: one sentence; stays on this side.
        values: what was expected and found, JSON-able; stays on this side.
    """

    code: RefusalCode
    reason: str
    message: str = ""
    values: dict[str, object] | None = None
