"""Judges passwords off the event loop, a few at a time: each costs a core a tenth of a second, and 32 MiB."""

import asyncio
import base64
import binascii
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from node.api.problems import ProblemError
from node.system.access_list import AccessList
from node.system.grants import Grant, Kind
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
# What a name that is not known is compared with: it costs as much, and matches nothing.
_NOBODY: Final = Password(VERSION, bytes(SALT_BYTES), bytes(HASH_BYTES))


class PasswordJudge:
    """Two threads, and a bounded queue before them."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="password")
        self._working = 0

    async def holder(self, grants: AccessList, name: str, password: bytes) -> Grant | None:
        """Return the grant of the user ``name``, if this is the password.

        A name that is not known costs the same.

        Raises:
            ProblemError: 429, too many wait.
        """
        grant = grants.of_name(name)
        if grant is None or grant.kind is not Kind.USER or grant.password is None:
            await self._run(matches, password, _NOBODY)
            return None
        return grant if await self._run(matches, password, grant.password) else None

    async def hashed(self, password: bytes, salt: bytes) -> Password:
        """Return what is kept of a password.

        Raises:
            ProblemError: 429, too many wait.
        """
        return await self._run(hash_password, password, salt)

    async def _run(self, work: Callable[[bytes, _T], _R], password: bytes, other: _T) -> _R:
        if self._working >= THREADS + WAITING_MAX:
            raise ProblemError("credentials-busy", "too many passwords wait to be judged; ask again")
        self._working += 1
        loop = asyncio.get_running_loop()
        future = self._threads.submit(work, password, other)
        # When the work is over, not when whoever asked for it has gone: that frees no thread.
        future.add_done_callback(lambda _: self._over(loop))
        return await asyncio.wrap_future(future)

    def _over(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work is over; called in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._give_back)

    def _give_back(self) -> None:
        self._working -= 1


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
