"""The identity of a group: its key and its id (docs/design/identities.md).

The GroupId covers everything that must be equal on all members. Two nodes that differ in any of it have
different ids, and a bond handshake between different ids ends before either side sends anything about itself.
The id follows from the group document (``node.group_document``). A group that a program makes without a
document has an id of the same form over the values that its builder received.
"""

import dataclasses
import hmac
import secrets
from collections.abc import Sequence
from typing import Any, Final

from attestation.encoding.canonical import digest
from attestation.tickets.jwt import JwtValidator
from attestation.tickets.protocol import TicketValidator
from attestation.tickets.tdx import TdxValidator
from node.errors import ConfigError
from node.group_document import PROTOCOL, Derived, GroupDocument, group_id_of_lineage, lineage_of
from node.raft.types import Settings

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
        """Return the key that is derived only from the validators, for a group without a document.

        It is not secret: with it, admission depends only on attestation.
        """
        if not validators:
            raise ConfigError("a derived group key needs at least one ticket validator")
        return cls(digest("bondstone/derived-group-key/v1", [v.signature for v in validators]))

    @classmethod
    def of_document(cls, document: GroupDocument) -> "GroupKey":
        """Return the key that is derived only from the document.

        It is not secret: with it, admission depends only on attestation.

        Raises:
            ConfigError: the document names a key by its digest.
        """
        if not isinstance(document.key, Derived):
            raise ConfigError(f'{document.where}: [group] key is not "derived"')
        without = {name: item for name, item in document.value.items() if name != "key"}
        return cls(digest("bondstone/derived-group-key/v2", lineage_of(without)))

    @property
    def public_digest(self) -> bytes:
        """32 bytes that identify the key without revealing it."""
        return digest("bondstone/group-key/v1", self.secret)


class GroupKeyDiffersError(ConfigError):
    """A group key is not the one that the group document names."""

    reason: Final = "group-key-differs"


def require_key(document: GroupDocument, key: GroupKey, *, source: str) -> GroupKey:
    """Return the key if the document names its digest. This holds for every sender of a key.

    Raises:
        GroupKeyDiffersError: the document names another digest.
    """
    expected = (
        GroupKey.of_document(document).public_digest if isinstance(document.key, Derived) else document.key
    )
    if not hmac.compare_digest(key.public_digest, expected):
        raise GroupKeyDiffersError(
            f"{source}: this is not the group key whose digest {document.where} names in [group] key "
            "(group-key-differs)"
        )
    return key


def validators_named_by(document: GroupDocument) -> list[tuple[str, bytes]]:
    """Return class and signature of the ticket validators that a group document requires, in order."""
    validators: list[TicketValidator] = [
        TdxValidator(policy=document.policy, root=document.root, endorsements_source=None)
    ]
    if document.jwt is not None:
        validators.append(JwtValidator(keys=document.jwt.keys, rules=document.jwt.rules))
    return [(one.ticket_class, one.signature) for one in validators]


def group_id(
    *,
    key: GroupKey,
    settings: Settings,
    machine_family: str,
    sync_signature: str,
    validators: Sequence[TicketValidator],
) -> bytes:
    """Return the 32-byte GroupId of a group that has no document."""
    value = {
        "protocol": PROTOCOL,
        "key": key.public_digest,
        "settings": _changed(settings),
        "machine": machine_family,
        "sync": sync_signature,
        "validators": [[v.ticket_class, v.signature] for v in validators],
    }
    return group_id_of_lineage(lineage_of(value))


def _changed(settings: Settings) -> dict[str, Any]:
    """Return the settings that differ from the defaults: a new setting in a later release changes no id."""
    defaults = Settings()
    return {
        item.name: getattr(settings, item.name)
        for item in dataclasses.fields(settings)
        if getattr(settings, item.name) != getattr(defaults, item.name)
    }
