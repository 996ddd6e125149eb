"""The group's authority in one node's life: who makes it, and the certificate of this member's API.

The leader makes the authority, once the group is at the feature level that has it. Each member issues its
own certificate with the authority in its copy of the group's state, and renews it long before it expires. A
node that was not admitted has no such copy. A member that was removed, or that does not hold all of the
state, renews nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final, Never, Protocol

from node.ca.certificates import (
    MEMBER_VALIDITY,
    ApiCertificates,
    CertificateAuthority,
    digest_of,
    valid_until,
)
from node.ca.names import PermittedNames
from node.group.errors import GroupError
from node.machines.system import SystemState
from node.raft.types import MemberStatus
from node.system.ca import LEVEL, ca_of, command_of

WATCH_S: Final = 1.0
WRITE_S: Final = 5.0
RENEW_BEFORE: Final[timedelta] = MEMBER_VALIDITY / 2

_log = logging.getLogger(__name__)


class CertifiedGroup(Protocol):
    """The part of the group that is used here; ``node.group.group.Group`` is one."""

    @property
    def id(self) -> bytes: ...
    @property
    def is_leader(self) -> bool: ...
    @property
    def status(self) -> MemberStatus: ...
    @property
    def system(self) -> SystemState: ...
    @property
    def covered_age_ms(self) -> int | None: ...
    async def execute_system(self, commands: list[object], *, timeout_s: float) -> object: ...


class GroupCa:
    """Makes the group's authority, and keeps this member's certificate valid.

    Args:
        names: of the group document; at least one.
        own: what this incarnation made for its API.
        group: the group, once there is one.
        now: the node's clock.
        publish: called with the authority's certificate, DER, when this member has it.
    """

    def __init__(
        self,
        *,
        names: PermittedNames,
        own: ApiCertificates,
        group: Callable[[], CertifiedGroup | None],
        now: Callable[[], datetime],
        publish: Callable[[bytes], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._names = names
        self._own = own
        self._group = group
        self._now = now
        self._publish = publish
        self._sleep = sleep
        self._issuer: bytes | None = None
        self._expires_at: datetime | None = None
        self.chain: tuple[bytes, ...] = (own.leaf,)

    async def run(self) -> Never:
        """Check every second, for as long as the owner lets this run."""
        while True:
            await self.look()
            await self._sleep(WATCH_S)

    async def look(self) -> None:
        """Do what is due now."""
        group = self._group()
        if group is None or group.covered_age_ms is None:
            return
        status = group.status
        if status.halted is not None or status.levels is None or status.levels.level < LEVEL:
            return
        if ca_of(group.system).certificate is None and group.is_leader:
            await self._found(group)
        self._certify(group)

    async def _found(self, group: CertifiedGroup) -> None:
        authority = CertificateAuthority.generate(group.id, self._names, self._now())
        try:
            await group.execute_system([command_of(authority)], timeout_s=WRITE_S)
        except GroupError as exc:
            # Another node leads, or none. If it was written nonetheless, that one stays.
            _log.info("the group's authority is not written yet: %s", exc)

    def _certify(self, group: CertifiedGroup) -> None:
        state, now = ca_of(group.system), self._now()
        if state.certificate is None or not self._is_due(state.certificate, now):
            return
        authority = state.authority()
        assert authority is not None
        member = authority.certify(self._own.anchor, now)
        self.chain = (self._own.leaf, member, authority.certificate_der)
        self._expires_at = valid_until(member)
        if self._issuer != authority.certificate_der:
            self._issuer = authority.certificate_der
            _log.info("the API has a certificate of the group's authority %s", digest_of(self._issuer).hex())
            self._publish(self._issuer)

    def _is_due(self, issuer: bytes, now: datetime) -> bool:
        if self._issuer != issuer or self._expires_at is None:
            return True
        # The clock may have been set back, too: then the certificate begins later than its clients expect.
        return not RENEW_BEFORE < self._expires_at - now <= MEMBER_VALIDITY
