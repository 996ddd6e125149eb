"""Grants: a credential, what it permits and until when; and the checks whether a call is within a grant."""

from enum import Enum
from typing import Any, Final

from msgspec import Struct

from node.machines.base import CommandError, StateMachine
from node.machines.keys import KeyRange
from node.system.passwords import Password

CREDENTIAL_BYTES: Final = 32


class AccessRole(Enum):
    """What a caller may do."""

    READ = "read"  # status, queries, metrics
    WRITE = "write"  # commands
    AUDIT = "audit"  # peers' evidence and the audit log
    METRICS = "metrics"  # only metrics
    EXPORT = "export"  # the whole state
    ADMIN = "admin"  # all of it, and changes of the access list


# The roles that key prefixes limit, and those that may stand beside them. With any other role a prefix would
# promise a limit that it does not keep.
LIMITED: Final = frozenset({AccessRole.READ, AccessRole.WRITE})
LIMITED_BESIDE: Final = frozenset({AccessRole.AUDIT, AccessRole.METRICS})
# Every request is checked here. Python 3.11 finds a global ten times as fast as an enumeration's member.
_ADMIN: Final = AccessRole.ADMIN
_READ: Final = AccessRole.READ
_WRITE: Final = AccessRole.WRITE


class CredentialKind(Enum):
    """The kind of credential that a caller shows."""

    TOKEN = "token"  # noqa: S105 - a kind of credential
    CERTIFICATE = "certificate"
    USER = "user"


class Grant(Struct, frozen=True, kw_only=True):
    """One credential of the access list.

    Attributes:
        name: the operator's label, unique in the list.
        credential: 32 bytes, equal on every member and unique in the list: SHA-256 of the token, of the
            certificate's SPKI, or ``Password.credential_of(name)``.
        roles: as granted; ``admin`` includes all others.
        prefixes: ``read`` and ``write`` hold only for keys that begin with one of them; none: for every key.
        expires_ms: from this log time on the grant permits nothing; None: it does not expire.
        certificate: the DER of a certificate.
        password: of a user.
    """

    name: str
    kind: CredentialKind
    credential: bytes
    roles: tuple[AccessRole, ...]
    prefixes: tuple[bytes, ...] = ()
    expires_ms: int | None = None
    certificate: bytes | None = None
    password: Password | None = None

    @property
    def is_admin(self) -> bool:
        return _ADMIN in self.roles

    @property
    def unlimited(self) -> bool:
        """Whether it permits every command and every query, of any machine, at any time."""
        reads_and_writes = self.is_admin or (_READ in self.roles and _WRITE in self.roles)
        return reads_and_writes and not self.prefixes and self.expires_ms is None

    def carries(self, role: AccessRole) -> bool:
        """Return whether this grant includes ``role``."""
        return role in self.roles or _ADMIN in self.roles

    def expired(self, now_ms: int) -> bool:
        """Return whether it no longer permits anything at this time."""
        return self.expires_ms is not None and now_ms >= self.expires_ms

    def permit(self, role: AccessRole) -> None:
        """Return if this grant carries ``role``.

        Raises:
            CommandError: ``not-permitted``.
        """
        if not self.carries(role):
            raise not_permitted(f"{self.name} does not carry the role `{role.value}`")

    def permit_command(self, command: Any, machine: StateMachine) -> None:
        """Return if this grant lets its holder execute ``command``.

        A command whose result shows what a key held needs ``read`` for that key too.

        Raises:
            CommandError: ``not-permitted``; or the machine's own code if ``command`` is malformed.
        """
        self.permit(_WRITE)
        if self.carries(_READ) and not self.prefixes:
            return
        touched = machine.keys_of(command)
        if touched is None:
            self._require_no_prefixes()
            return
        for keys in touched.writes:
            self._require_within(keys)
        if touched.reads:
            self.permit(_READ)
        for keys in touched.reads:
            self._require_within(keys)

    def permit_query(self, query: Any, machine: StateMachine) -> None:
        """Return if this grant lets its holder ask ``query``.

        Raises:
            CommandError: ``not-permitted``; or the machine's own code if ``query`` is malformed.
        """
        self.permit(_READ)
        if not self.prefixes:
            return
        touched = machine.keys_of_query(query)
        if touched is None:
            self._require_no_prefixes()
            return
        for keys in (*touched.reads, *touched.writes):
            self._require_within(keys)

    def permit_reading(self, keys: KeyRange) -> None:
        """Return if this grant lets its holder read every key of a range.

        Raises:
            CommandError: ``not-permitted``.
        """
        self.permit(_READ)
        self._require_within(keys)

    def _require_no_prefixes(self) -> None:
        if self.prefixes:
            raise not_permitted(f"{self.name} is limited to key prefixes, and this machine has no keys")

    def _require_within(self, keys: KeyRange) -> None:
        if self.prefixes and not any(keys.within(prefix) for prefix in self.prefixes):
            raise not_permitted(f"{self.name} is limited to key prefixes, and this is outside of them")


def not_permitted(message: str) -> CommandError:
    """Return the refusal of a command or query that its caller may not give."""
    return CommandError(NOT_PERMITTED, message)


NOT_PERMITTED: Final = "not-permitted"
