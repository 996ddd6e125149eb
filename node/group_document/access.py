"""Who may call at the group's founding: ``[access]``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from attestation.encoding.toml_tables import TableError
from node.group_document.tables import AccessTable, CertificateTable, TokenTable
from node.machines.base import CommandError
from node.system.forms import checked, roles_in_order
from node.system.grants import CredentialKind, Grant
from node.tokens import PRINCIPALS_MAX, AccessRole, certificate_of_pem, spki_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundingToken:
    """A token that is valid from the genesis on.

    Attributes:
        credential: SHA-256 of the token's text, 32 bytes.
        prefixes: keys must begin with one of them, in UTF-8; None: all keys.
        expires_at: aware UTC, whole seconds; None: never.
    """

    name: str
    credential: bytes
    roles: frozenset[AccessRole]
    prefixes: tuple[str, ...] | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundingCertificate:
    """A client certificate that is valid from the genesis on. ``credential``: SHA-256 of its SPKI."""

    name: str
    credential: bytes
    certificate_der: bytes
    roles: frozenset[AccessRole]
    prefixes: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundingAccess:
    """Which callers are permitted at first. ``lag_s``: how far behind the leader a member may judge them."""

    lag_s: int
    tokens: tuple[FoundingToken, ...]
    certificates: tuple[FoundingCertificate, ...]


def access_of(table: AccessTable) -> FoundingAccess:
    """Return who may call at first.

    Raises:
        TableError: an entry is not allowed, or two have the same name or credential.
    """
    tokens = tuple(
        FoundingToken(
            name=one.name,
            credential=bytes.fromhex(one.sha256),
            roles=frozenset(one.roles),
            prefixes=_prefixes_of(one.prefixes),
            expires_at=_time_of(one),
        )
        for one in table.token
    )
    certificates = tuple(_certificate_of(one) for one in table.certificate)
    everybody: list[FoundingToken | FoundingCertificate] = [*tokens, *certificates]
    if len(everybody) > PRINCIPALS_MAX:
        raise TableError("access", f"has more than {PRINCIPALS_MAX} entries")
    for what in ("credential", "name"):
        seen: dict[object, str] = {}
        for one in everybody:
            key = getattr(one, what)
            if key in seen:
                raise TableError("access", f"{seen[key]} and {one.name} have the same {what}")
            seen[key] = one.name
    access = FoundingAccess(
        lag_s=table.lag_s,
        tokens=tuple(sorted(tokens, key=lambda one: one.credential)),
        certificates=tuple(sorted(certificates, key=lambda one: one.credential)),
    )
    for grant in grants_of(access):
        try:
            checked(grant)
        except CommandError as exc:
            raise TableError("access", f"{grant.name}: {exc.message}") from exc
    return access


def grants_of(access: FoundingAccess) -> tuple[Grant, ...]:
    """Return the access list that every member begins with; afterwards only the group's log changes it."""
    tokens = [
        Grant(
            name=one.name,
            kind=CredentialKind.TOKEN,
            credential=one.credential,
            roles=roles_in_order(one.roles),
            prefixes=tuple(prefix.encode() for prefix in one.prefixes or ()),
            expires_ms=None if one.expires_at is None else int(one.expires_at.timestamp()) * 1000,
        )
        for one in access.tokens
    ]
    certificates = [
        Grant(
            name=one.name,
            kind=CredentialKind.CERTIFICATE,
            credential=one.credential,
            roles=roles_in_order(one.roles),
            prefixes=tuple(prefix.encode() for prefix in one.prefixes or ()),
            certificate=one.certificate_der,
        )
        for one in access.certificates
    ]
    return (*tokens, *certificates)


def _prefixes_of(prefixes: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the prefixes sorted, without those that another one covers: one form for one meaning."""
    if prefixes is None:
        return None
    kept: list[str] = []
    for prefix in sorted(prefixes):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return tuple(kept)


def _time_of(table: TokenTable) -> datetime | None:
    if table.expires_at is None:
        return None
    if table.expires_at.tzinfo is None or table.expires_at.microsecond:
        raise TableError(
            "access.token",
            f"{table.name}: expires_at must be whole seconds with their offset, such as …T00:00:00Z",
        )
    try:
        return table.expires_at.astimezone(UTC)
    except OverflowError as exc:
        raise TableError("access.token", f"{table.name}: expires_at is out of range") from exc


def _certificate_of(table: CertificateTable) -> FoundingCertificate:
    try:
        certificate = certificate_of_pem(table.pem)
        credential = spki_digest(certificate)
    except ValueError as exc:
        raise TableError("access.certificate", f"{table.name}: pem is not a PEM certificate") from exc
    return FoundingCertificate(
        name=table.name,
        credential=credential,
        certificate_der=certificate.public_bytes(Encoding.DER),
        roles=frozenset(table.roles),
        prefixes=_prefixes_of(table.prefixes),
    )


def canonical_access(access: FoundingAccess) -> dict[str, Any]:
    """Return what of it the canonical document has."""
    out: dict[str, Any] = {}
    if access.lag_s != AccessTable().lag_s:
        out["lag_s"] = access.lag_s
    if access.tokens:
        out["tokens"] = [_canonical_principal(one, {"sha256": one.credential}) for one in access.tokens]
    if access.certificates:
        out["certificates"] = [
            _canonical_principal(one, {"der": one.certificate_der}) for one in access.certificates
        ]
    return out


def _canonical_principal(
    one: FoundingToken | FoundingCertificate, credential: Mapping[str, bytes]
) -> dict[str, Any]:
    out: dict[str, Any] = {"name": one.name, **credential, "roles": canonical_roles(one.roles)}
    if one.prefixes is not None:
        out["prefixes"] = list(one.prefixes)
    if isinstance(one, FoundingToken) and one.expires_at is not None:
        out["expires_at"] = int(one.expires_at.timestamp())
    return out


def canonical_roles(roles: Sequence[AccessRole] | frozenset[AccessRole]) -> list[str]:
    """Return the roles' names, sorted; ``admin`` includes every other role, also those of later releases."""
    if AccessRole.ADMIN in roles:
        return [AccessRole.ADMIN.value]
    return sorted({role.value for role in roles})
