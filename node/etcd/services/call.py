"""What a service knows of a call beside its message."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from node.etcd.errors import Code, EtcdError
from node.system.grants import Grant

TIMEOUT_S: Final = 7.0  # of a call without a deadline: etcd's, 5 s and two election timeouts


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of an authenticated client.

    Attributes:
        grant: the caller's, as the access list has it now.
        deadline: in the event loop's time; None: the client set none.
        metadata: of the request, with names in lower case.
        idempotency_key: 32 bytes, derived from the caller's own key and its credential; None: it sent none.
    """

    grant: Grant
    deadline: float | None
    metadata: Mapping[str, str]
    idempotency_key: bytes | None

    def left_s(self, limit_s: float = TIMEOUT_S) -> float:
        """Return for how many seconds this call may go on, at most ``limit_s``.

        Raises:
            EtcdError: DEADLINE_EXCEEDED, the time is over.
        """
        if self.deadline is None:
            return limit_s
        left = self.deadline - asyncio.get_running_loop().time()
        if left <= 0:
            raise EtcdError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
        return min(left, limit_s)
