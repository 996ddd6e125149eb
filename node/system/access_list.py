"""The access list as a value: every grant, by credential and by name."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from node.machines.base import CommandError
from node.system.grants import CredentialKind, Grant, not_permitted

GRANTS_MAX: Final = 1024
LIST_BYTES_MAX: Final = 1024 * 1024
# After every change each node's TLS reads all certificates as trust anchors, on the node's event loop.
CERTIFICATES_MAX: Final = 256
_GRANT_BYTES: Final = 128  # besides its texts


class AccessList:
    """Immutable: a change makes a new list. Raises CommandError if two grants share a name or credential."""

    __slots__ = ("_by_credential", "_by_name", "_certificates", "size_bytes", "unlimited")

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        self._by_name: dict[str, Grant] = {}
        self._by_credential: dict[bytes, Grant] = {}
        self.size_bytes = 0
        self._certificates = 0
        for grant in grants:
            self._take(grant)
        # Credentials that permit every command and query: these need no further check.
        self.unlimited = frozenset(grant.credential for grant in self if grant.unlimited)

    def __iter__(self) -> Iterator[Grant]:
        """Iterate in the order in which the grants were made."""
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def of_credential(self, credential: bytes) -> Grant | None:
        # A dictionary, not a comparison in constant time: the key is a digest, and no caller can choose a
        # part of a digest.
        return self._by_credential.get(credential)

    def of_name(self, name: str) -> Grant | None:
        return self._by_name.get(name)

    def require(self, credential: bytes, now_ms: int) -> Grant:
        """Return the grant of a credential that is in the list and has not expired.

        Raises:
            CommandError: ``not-permitted``.
        """
        grant = self._by_credential.get(credential)
        if grant is None:
            raise not_permitted("this credential is not in the access list, or not any more")
        if grant.expired(now_ms):
            raise not_permitted(f"{grant.name} has expired")
        return grant

    def of_token(self, token: bytes) -> Grant | None:
        """Return the grant of a caller that shows this bearer token."""
        return self._of_kind(hashlib.sha256(token).digest(), CredentialKind.TOKEN)

    def of_key(self, spki_digest: bytes) -> Grant | None:
        """Return the grant of a caller that has proved in TLS that it holds this key."""
        return self._of_kind(spki_digest, CredentialKind.CERTIFICATE)

    def _of_kind(self, credential: bytes, kind: CredentialKind) -> Grant | None:
        grant = self._by_credential.get(credential)
        return grant if grant is not None and grant.kind is kind else None

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """Every client certificate, DER: the trust anchors of client authentication in TLS."""
        return tuple(grant.certificate for grant in self if grant.certificate is not None)

    def admins(self, now_ms: int) -> tuple[Grant, ...]:
        """Return the grants that permit changes of this list at this time."""
        return tuple(grant for grant in self if grant.is_admin and not grant.expired(now_ms))

    def with_grant(self, grant: Grant, now_ms: int) -> "AccessList":
        """Return the list with ``grant`` too. If there is no room, expired grants are removed.

        Raises:
            CommandError: the list has the name or credential already, or there is no room.
        """
        try:
            return AccessList((*self, grant))
        except CommandError as exc:
            if exc.code != "access-list-full":
                raise
        return AccessList((*(one for one in self if not one.expired(now_ms)), grant))

    def without(self, grant: Grant) -> "AccessList":
        """Return the list without ``grant``."""
        return AccessList(one for one in self if one is not grant)

    def _take(self, grant: Grant) -> None:
        if grant.name in self._by_name:
            raise CommandError("access-name-taken", f"there is a credential named {grant.name} already")
        same = self._by_credential.get(grant.credential)
        if same is not None:
            raise CommandError(
                "access-credential-known", f"{same.name} and {grant.name} are the same credential"
            )
        self.size_bytes += _size(grant)
        self._certificates += grant.kind is CredentialKind.CERTIFICATE
        if (
            len(self._by_name) >= GRANTS_MAX
            or self._certificates > CERTIFICATES_MAX
            or self.size_bytes > LIST_BYTES_MAX
        ):
            raise CommandError(
                "access-list-full",
                f"the access list has at most {GRANTS_MAX} credentials of {LIST_BYTES_MAX} bytes together,"
                f" and {CERTIFICATES_MAX} certificates among them",
            )
        self._by_name[grant.name] = grant
        self._by_credential[grant.credential] = grant


def _size(grant: Grant) -> int:
    texts = (grant.name.encode(), *grant.prefixes, grant.certificate or b"")
    return _GRANT_BYTES + sum(map(len, texts))
