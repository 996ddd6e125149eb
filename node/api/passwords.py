"""Judges passwords off the event loop, a few at a time: each costs a core a tenth of a second, and 32 MiB."""

import asyncio
import base64
import binascii
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from node.api.problems import ProblemError
from node.api.turns import Asking, CrowdedOutError, Turns
from node.places import Usage
from node.system.access_list import AccessList
from node.system.grants import CredentialKind, Grant
from node.system.passwords import (
    HASH_BYTES,
    PASSWORD_BYTES_MAX,
    SALT_BYTES,
    VERSION,
    Password,
    hash_password,
    matches,
)

_T = TypeVar("_T")
_R = TypeVar("_R")

THREADS: Final = 2
WAITING_MAX: Final = 16
WAIT_S_MAX: Final = 10.0
_ADMIN: Final = Asking("admin", known=True)
# The password of an unknown name is compared with this: it costs as much, and nothing matches it.
_NOBODY: Final = Password(VERSION, bytes(SALT_BYTES), bytes(HASH_BYTES))


class PasswordJudge:
    """Two threads, and a bounded waiting room before them, in which the shares take turns."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="password")
        self._turns = Turns("api-passwords", THREADS, waiting_max=WAITING_MAX, wait_s_max=WAIT_S_MAX)

    @property
    def usage(self) -> Usage:
        """The usage of the waiting room."""
        return self._turns.usage

    async def holder(self, grants: AccessList, name: str, password: bytes, who: Asking) -> Grant | None:
        """Return the grant of the user ``name``, if this is the password.

        An unknown name costs the same.

        Raises:
            ProblemError: 429, too many wait.
        """
        grant = grants.of_name(name)
        if grant is None or grant.kind is not CredentialKind.USER or grant.password is None:
            await self._run(who, matches, password, _NOBODY)
            return None
        return grant if await self._run(who, matches, password, grant.password) else None

    async def hashed(self, password: bytes, salt: bytes) -> Password:
        """Return what the group keeps of a password. The caller is an admin that the gate has let in.

        Raises:
            ProblemError: 429, too many wait.
        """
        return await self._run(_ADMIN, hash_password, password, salt)

    async def _run(self, who: Asking, work: Callable[[bytes, _T], _R], password: bytes, other: _T) -> _R:
        loop = asyncio.get_running_loop()
        try:
            async with self._turns.turn(who.share, known=who.known):
                return await loop.run_in_executor(self._threads, work, password, other)
        except CrowdedOutError as exc:
            raise ProblemError(
                "credentials-busy", f"the node could not check the password: {exc}; try again"
            ) from exc


def basic_credentials(parameter: bytes) -> tuple[str, bytes] | None:
    """Return name and password of ``Basic`` credentials (RFC 7617), None if they are malformed."""
    try:
        text = base64.b64decode(parameter, validate=True)
        name, colon, password = text.partition(b":")
        decoded = name.decode("ascii")
    except (binascii.Error, ValueError):
        return None
    if not colon or not 1 <= len(password) <= PASSWORD_BYTES_MAX:
        return None
    return decoded, password
