"""Who may call the HTTP API: bearer tokens, stored hashed, and pinned client certificates, each with roles.

The access file (``api.tokens_file``) is TOML:

    [[token]]
    name = "deploy"
    sha256 = "…64 hex digits…"          # SHA-256 of the token's text; the token itself is nowhere on disk
    roles = ["read", "write"]

    [[certificate]]
    name = "ops-laptop"
    pem = '''-----BEGIN CERTIFICATE-----…'''  # a self-signed client certificate; its key is what is pinned
    roles = ["read", "audit"]

A plain SHA-256 is right here, and a password hash would be wrong: tokens are made by ``new_token`` with 256
random bits, so there is nothing to guess, and every request is checked. ``admin`` includes every other role.
"""

import hashlib
import hmac
import secrets
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from node.errors import ConfigError

FILE_BYTES_MAX: Final = 256 * 1024
PRINCIPALS_MAX: Final = 256
TOKEN_PREFIX: Final = "bst_"  # noqa: S105 - a public prefix, so that secret scanners can find leaked tokens
TOKEN_RANDOM_BYTES: Final = 32
TOKEN_CHARACTERS_MAX: Final = 512


class AccessRole(Enum):
    """What a principal may do."""

    READ = "read"  # status, queries, metrics
    WRITE = "write"  # commands
    AUDIT = "audit"  # peers' evidence and the audit log
    METRICS = "metrics"  # metrics, and nothing else
    EXPORT = "export"  # the group's whole state
    ADMIN = "admin"  # all of it, and provisioning


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Somebody that has shown a credential.

    Attributes:
        name: the operator's label.
        roles: what it may do, ``admin`` already expanded.
        credential: SHA-256 of the token, or of the certificate's SPKI: equal on every node.
    """

    name: str
    roles: frozenset[AccessRole]
    credential: bytes


class AccessError(Exception):
    """A credential was shown, and it is not known here (or none was shown)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*\Z")]
Roles = Annotated[tuple[AccessRole, ...], msgspec.Meta(min_length=1, max_length=len(AccessRole))]


class _TokenTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    roles: Roles


class _CertificateTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    pem: Annotated[str, msgspec.Meta(max_length=16 * 1024)]
    roles: Roles


class _AccessFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    token: tuple[_TokenTable, ...] = ()
    certificate: tuple[_CertificateTable, ...] = ()


class AccessList:
    """Everybody that may call. Immutable; made by ``load_access`` or ``parse_access``."""

    __slots__ = ("_certificates", "_client_certificates_der", "_tokens")

    def __init__(
        self,
        *,
        tokens: Iterable[Principal] = (),
        certificates: Iterable[Principal] = (),
        client_certificates_der: Iterable[bytes] = (),
    ) -> None:
        self._tokens = tuple(tokens)
        self._certificates = tuple(certificates)
        self._client_certificates_der = tuple(client_certificates_der)

    @property
    def client_certificates_der(self) -> tuple[bytes, ...]:
        """The pinned client certificates: the trust anchors of client authentication in TLS."""
        return self._client_certificates_der

    @property
    def has_admin(self) -> bool:
        """True if anybody here holds ``admin``."""
        return any(AccessRole.ADMIN in one.roles for one in (*self._tokens, *self._certificates))

    def of_token(self, token: bytes) -> Principal:
        """Return who holds this token.

        Every stored digest is compared, in constant time each, whichever matches.

        Raises:
            AccessError: nobody does.
        """
        shown = hashlib.sha256(token).digest()
        found: Principal | None = None
        for principal in self._tokens:
            if hmac.compare_digest(principal.credential, shown):
                found = principal
        if found is None or len(token) > TOKEN_CHARACTERS_MAX:
            raise AccessError("token-unknown", "this bearer token is not known here")
        return found

    def of_client_certificate(self, certificate_der: bytes) -> Principal:
        """Return who holds the key of this certificate, with which TLS has authenticated the client.

        Raises:
            AccessError: nobody does, or it is no certificate.
        """
        try:
            shown = spki_digest(x509.load_der_x509_certificate(certificate_der))
        except ValueError as exc:
            raise AccessError("certificate-unknown", "the client certificate cannot be read") from exc
        found: Principal | None = None
        for principal in self._certificates:
            if hmac.compare_digest(principal.credential, shown):
                found = principal
        if found is None:
            raise AccessError("certificate-unknown", "this client certificate is not known here")
        return found


def spki_digest(certificate: x509.Certificate) -> bytes:
    """Return SHA-256 over the DER SubjectPublicKeyInfo."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def new_token() -> str:
    """Return a new token with 256 random bits. Show it once; store ``hash_token`` of it."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_RANDOM_BYTES)


def hash_token(token: str) -> str:
    """Return what the access file holds for a token: 64 lower-case hex digits."""
    return hashlib.sha256(token.encode()).hexdigest()


def render_token_entry(name: str, token: str, roles: Iterable[AccessRole], *, table: str = "token") -> str:
    """Return the table of a token, for an access file or (``access.token``) a group document."""
    listed = ", ".join(f'"{role.value}"' for role in roles)
    return f'[[{table}]]\nname = "{name}"\nsha256 = "{hash_token(token)}"\nroles = [{listed}]\n'


def load_access(path: Path) -> AccessList:
    """Read an access file.

    Raises:
        ConfigError: naming the file and what is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as exc:
        raise ConfigError(f"api.tokens_file: cannot read {path}: {exc.strerror}") from exc
    return parse_access(data, where=str(path))


def parse_access(data: bytes, *, where: str) -> AccessList:
    """Parse an access file's bytes; ``where`` names it in errors.

    Raises:
        ConfigError: too large, not TOML, an unknown key, a credential twice, or no certificate in a ``pem``.
    """
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{where}: larger than {FILE_BYTES_MAX} bytes")
    try:
        file = msgspec.toml.decode(data, type=_AccessFile)
    except (msgspec.DecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{where}: {exc}") from exc
    certificates = [(table, _certificate_of(table, where)) for table in file.certificate]
    tokens = [
        Principal(name=table.name, roles=expand_roles(table.roles), credential=bytes.fromhex(table.sha256))
        for table in file.token
    ]
    pinned = [
        Principal(name=table.name, roles=expand_roles(table.roles), credential=spki_digest(certificate))
        for table, certificate in certificates
    ]
    _require_distinct([*tokens, *pinned], where)
    return AccessList(
        tokens=tokens,
        certificates=pinned,
        client_certificates_der=[one.public_bytes(Encoding.DER) for _, one in certificates],
    )


def _certificate_of(table: _CertificateTable, where: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(table.pem.encode())
    except ValueError as exc:
        raise ConfigError(f"{where}: [[certificate]] {table.name}: `pem` is not a PEM certificate") from exc


def expand_roles(roles: Iterable[AccessRole]) -> frozenset[AccessRole]:
    """Return the roles with all that they include."""
    roles = frozenset(roles)
    return frozenset(AccessRole) if AccessRole.ADMIN in roles else roles


def _require_distinct(principals: list[Principal], where: str) -> None:
    if len(principals) > PRINCIPALS_MAX:
        raise ConfigError(f"{where}: more than {PRINCIPALS_MAX} entries")
    seen: dict[bytes, str] = {}
    for one in principals:
        if one.credential in seen:
            raise ConfigError(f"{where}: {seen[one.credential]} and {one.name} are the same credential")
        seen[one.credential] = one.name
