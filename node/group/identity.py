"""What makes a group this group: its key and its id (design: names and ids).

The GroupId folds in everything that must be equal on all members. Two nodes that differ in any of it have
different ids, and a bond handshake between different ids ends before anything is said.
"""

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Final

from attestation.canonical import digest
from attestation.tickets import TicketValidator
from node.errors import ConfigError
from node.raft.types import Settings

PROTOCOL_MAJOR: Final = 1
GROUP_KEY_BYTES: Final = 32


@dataclasses.dataclass(frozen=True, slots=True)
class GroupKey:
    """32 secret bytes that prove membership; never shown, not even in a traceback."""

    secret: bytes = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != GROUP_KEY_BYTES:
            raise ConfigError(f"a group key has {GROUP_KEY_BYTES} bytes, not {len(self.secret)}")

    @classmethod
    def generate(cls) -> "GroupKey":
        return cls(secrets.token_bytes(GROUP_KEY_BYTES))

    @classmethod
    def from_hex(cls, text: str) -> "GroupKey":
        """Parse 64 hex digits, as in a key file.

        Raises:
            ConfigError: anything else.
        """
        try:
            return cls(bytes.fromhex(text.strip()))
        except ValueError as exc:
            raise ConfigError("a group key is 64 hex digits") from exc

    @classmethod
    def derived(cls, validators: Sequence[TicketValidator]) -> "GroupKey":
        """Return the key that follows from the validators alone.

        It is no secret: with it, admission rests on attestation only.
        """
        if not validators:
            raise ConfigError("a derived group key needs at least one ticket validator")
        return cls(digest("bondstone/derived-group-key/v1", [v.signature for v in validators]))

    @property
    def public_digest(self) -> bytes:
        """32 bytes that identify the key without giving it away."""
        return digest("bondstone/group-key/v1", self.secret)


def group_id(
    *,
    key: GroupKey,
    settings: Settings,
    machine_signature: str,
    sync_signature: str,
    validators: Sequence[TicketValidator],
) -> bytes:
    """Return the 32-byte GroupId."""
    return digest(
        "bondstone/group-id/v1",
        PROTOCOL_MAJOR,
        key.public_digest,
        dataclasses.asdict(settings),
        machine_signature,
        sync_signature,
        [[v.ticket_class, v.signature] for v in validators],
    )
