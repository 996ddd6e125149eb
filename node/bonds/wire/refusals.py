"""Why a bond is refused or closed. The numbers are those of the system that bondstone follows."""

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
        message: one sentence; not sent to the peer.
        values: what was expected and found, JSON-able; not sent to the peer.
    """

    code: RefusalCode
    reason: str
    message: str = ""
    values: dict[str, object] | None = None
