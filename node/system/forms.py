"""Grants as plain CBOR data, in commands, lists and snapshots.

    {"name", "kind", "credential", "roles", "prefixes"?, "expires_ms"?, "certificate"?, "password"?}

An absent member has its default's meaning and is not written. ``password`` is ``[version, salt, hash]``.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

from node.machines.base import CommandError
from node.system.grants import CREDENTIAL_BYTES, LIMITED, LIMITED_BESIDE, AccessRole, CredentialKind, Grant
from node.system.passwords import HASH_BYTES, SALT_BYTES, VERSION, Password

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"
NAME_CHARACTERS_MAX: Final = 64
PREFIXES_MAX: Final = 64
PREFIX_BYTES_MAX: Final = 1024
CERTIFICATE_BYTES_MAX: Final = 8192
TIME_MS_MAX: Final = 2**53
_ROLES: Final = {role.value: role for role in AccessRole}
_KINDS: Final = {kind.value: kind for kind in CredentialKind}
_MEMBERS: Final = frozenset(
    {"name", "kind", "credential", "roles", "prefixes", "expires_ms", "certificate", "password"}
)


def encode_grant(grant: Grant) -> dict[str, Any]:
    """Return the plain form."""
    form: dict[str, Any] = {
        "name": grant.name,
        "kind": grant.kind.value,
        "credential": grant.credential,
        "roles": [role.value for role in grant.roles],
    }
    if grant.prefixes:
        form["prefixes"] = list(grant.prefixes)
    if grant.expires_ms is not None:
        form["expires_ms"] = grant.expires_ms
    if grant.certificate is not None:
        form["certificate"] = grant.certificate
    if grant.password is not None:
        form["password"] = [grant.password.version, grant.password.salt, grant.password.hash]
    return form


def decode_grant_untrusted(form: Any) -> Grant:
    """Return the grant that a plain form stands for.

    Raises:
        CommandError: ``access-invalid``, and the message names the member.
    """
    if not isinstance(form, dict) or not form.keys() <= _MEMBERS:
        raise invalid("a grant is a map of name, kind, credential, roles and what limits them")
    kind = _KINDS.get(_text(form, "kind"))
    if kind is None:
        raise invalid(f"`kind` is one of {', '.join(_KINDS)}")
    grant = Grant(
        name=_text(form, "name"),
        kind=kind,
        credential=_bytes(form.get("credential"), "credential", CREDENTIAL_BYTES, CREDENTIAL_BYTES),
        roles=_roles(form.get("roles")),
        prefixes=_prefixes(form.get("prefixes")),
        expires_ms=_time(form.get("expires_ms")),
        certificate=_certificate(form.get("certificate")),
        password=_password(form.get("password")),
    )
    return checked(grant)


def checked(grant: Grant) -> Grant:
    """Return the grant if its values are consistent.

    Raises:
        CommandError: ``access-invalid``.
    """
    if re.fullmatch(NAME_PATTERN, grant.name, re.ASCII) is None:
        raise invalid(f"`name` is 1 to {NAME_CHARACTERS_MAX} letters, digits and . _ @ - (not first)")
    if (grant.certificate is not None) != (grant.kind is CredentialKind.CERTIFICATE):
        raise invalid("`certificate` belongs to the kind certificate, and to no other")
    if (grant.password is not None) != (grant.kind is CredentialKind.USER):
        raise invalid("`password` belongs to the kind user, and to no other")
    if grant.password is not None and grant.credential != grant.password.credential_of(grant.name):
        raise invalid("`credential` is not that of this name and password")
    roles = set(grant.roles)
    if not roles or grant.roles != roles_in_order(roles):
        raise invalid("`roles` has none, one twice, or another beside `admin`")
    if grant.prefixes and not (roles & LIMITED and roles <= LIMITED | LIMITED_BESIDE):
        raise invalid("`prefixes` limit read and write, and do not go with admin or export")
    return grant


def roles_in_order(roles: Iterable[AccessRole]) -> tuple[AccessRole, ...]:
    """Return each role once, in the order of ``AccessRole``; beside ``admin`` the others are left out."""
    given = set(roles)
    if AccessRole.ADMIN in given:
        return (AccessRole.ADMIN,)
    return tuple(role for role in AccessRole if role in given)


def roles_of(names: Any) -> tuple[AccessRole, ...]:
    """Return the roles with these names.

    Raises:
        CommandError: ``access-invalid``.
    """
    return _roles(names)


def invalid(message: str) -> CommandError:
    """Return the refusal of a malformed command."""
    return CommandError("access-invalid", message)


def _roles(value: Any) -> tuple[AccessRole, ...]:
    known = f"`roles` is a list of distinct roles, of {', '.join(_ROLES)}"
    if not isinstance(value, list) or not 1 <= len(value) <= len(_ROLES):
        raise invalid(known)
    if not all(isinstance(name, str) and name in _ROLES for name in value) or len(set(value)) < len(value):
        raise invalid(known)
    return roles_in_order(_ROLES[name] for name in value)


def _prefixes(value: Any) -> tuple[bytes, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not 1 <= len(value) <= PREFIXES_MAX:
        raise invalid(f"`prefixes` is a list of 1 to {PREFIXES_MAX}; absent: every key")
    prefixes = tuple(_bytes(prefix, "prefixes", 1, PREFIX_BYTES_MAX) for prefix in value)
    if len(set(prefixes)) < len(prefixes):
        raise invalid("`prefixes` has one twice")
    return prefixes


def _time(value: Any) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 0 < value <= TIME_MS_MAX:
        raise invalid("`expires_ms` is Unix milliseconds")
    return value


def _certificate(value: Any) -> bytes | None:
    return None if value is None else _bytes(value, "certificate", 1, CERTIFICATE_BYTES_MAX)


def _password(value: Any) -> Password | None:
    match value:
        case None:
            return None
        case [int(version), salt, kept] if version == VERSION and version is not True:
            return Password(
                version,
                _bytes(salt, "password", SALT_BYTES, SALT_BYTES),
                _bytes(kept, "password", HASH_BYTES, HASH_BYTES),
            )
        case _:
            raise invalid(f"`password` is [{VERSION}, salt, hash]")


def _bytes(value: Any, member: str, low: int, high: int) -> bytes:
    if not isinstance(value, bytes) or not low <= len(value) <= high:
        raise invalid(f"`{member}` is {low} to {high} bytes")
    return value


def _text(form: dict[str, Any], member: str) -> str:
    value = form.get(member)
    if not isinstance(value, str):
        raise invalid(f"`{member}` is text")
    return value
