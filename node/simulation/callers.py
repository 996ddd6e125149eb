"""The callers of a simulated group: the real access list, and reports of its verdicts to the oracles."""

from collections.abc import Callable
from random import Random
from typing import Any, Final

from node.machines.base import ApplyContext, CommandError, StateMachine
from node.machines.system import RequestKind, SystemState
from node.system.access import CURRENT, AccessState
from node.system.forms import encode_grant
from node.system.grants import AccessRole, CredentialKind, Grant

_NAMES: Final = ("ann", "bob", "eve")
NAMES: Final = tuple(name.encode().ljust(32, b".") for name in _NAMES)
_ROLES: Final = (
    (AccessRole.ADMIN,),
    (AccessRole.READ, AccessRole.WRITE),
    (AccessRole.READ,),
    (AccessRole.WRITE,),
)
Judged = Callable[[RequestKind, bytes | None, Any, int], tuple[int, int]]
Executed = Callable[[int, int, Any, ApplyContext], None]
Refused = Callable[[int, int], None]


def callers() -> AccessState:
    """Return the access list that every member of a simulated group begins with. It does not contain eve."""
    return AccessState(_grant(name, (AccessRole.ADMIN,)) for name in _NAMES[:2])


def _grant(name: str, roles: tuple[AccessRole, ...]) -> Grant:
    return Grant(name=name, kind=CredentialKind.TOKEN, credential=name.encode().ljust(32, b"."), roles=roles)


def draw_system_command(rng: Random) -> tuple[object, ...]:
    """Draw the grants that one entry adds or removes."""
    if rng.random() < 0.2:
        # Either all of them are added, or none, if one is on the list already.
        return tuple(_let_in(rng, name) for name in _NAMES)
    name = rng.choice(_NAMES)
    if rng.random() < 0.5:
        return (_let_in(rng, name),)
    return (["access-revoke", {"name": name, "force": rng.random() < 0.1}],)


def _let_in(rng: Random, name: str) -> object:
    return ["access-new", encode_grant(_grant(name, rng.choice(_ROLES)))]


def draw_system_query(rng: Random) -> object:
    """Draw a query about the list."""
    return [rng.choice(("access-list", CURRENT))]


class SystemRecorder(SystemState):
    """Opens the clients' envelopes for ``inner``, as ``Recorder`` does for the machine.

    Every command is judged before any part of its entry is applied. So this class can report each command to
    the oracles: its place in the log, and whether its caller is permitted.

    Args:
        judged: called for every command that is judged; returns its call and its place in the log.
        executed: called for every command that is applied.
        refused: called for every call that is refused, with its place.
    """

    def __init__(self, inner: SystemState, judged: Judged, executed: Executed, refused: Refused) -> None:
        self.inner = inner
        self._judged = judged
        self._executed = executed
        self._refused = refused

    def judge(
        self,
        credential: bytes | None,
        request: RequestKind,
        value: Any,
        *,
        now_ms: int,
        machine: StateMachine,
    ) -> None:
        if request is RequestKind.QUERY or request is RequestKind.SYSTEM_QUERY:
            self.inner.judge(credential, request, value, now_ms=now_ms, machine=machine)
            return
        call, index = self._judged(request, credential, value, now_ms)
        try:
            self.inner.judge(credential, request, value[2], now_ms=now_ms, machine=machine)
        except CommandError:
            self._refused(call, index)
            raise

    def apply(self, command: Any, context: ApplyContext) -> Any:
        call, position, unwrapped = command
        self._executed(call, position, unwrapped, context)
        return self.inner.apply(unwrapped, context)

    def query(self, query: Any) -> Any:
        return self.inner.query(query)

    def savepoint(self) -> Any:
        return self.inner.savepoint()

    def rollback(self, savepoint: Any) -> None:
        self.inner.rollback(savepoint)

    def snapshot(self) -> Any:
        return self.inner.snapshot()

    def restore(self, snapshot: Any) -> None:
        self.inner.restore(snapshot)
