"""A system state for simulated groups: who may call. And what tells the oracles of all that is judged."""

from collections.abc import Callable
from random import Random
from typing import Any, Final

from node.machines.base import ApplyContext, CommandError, StateMachine
from node.machines.system import Request, SystemState

NAMES: Final = (b"ann", b"bob", b"eve")
NOT_PERMITTED: Final = "not-permitted"
Judged = Callable[[Request, bytes | None, Any, int], tuple[int, int]]
Executed = Callable[[int, int, Any, ApplyContext], None]
Refused = Callable[[int, int], None]


class Callers(SystemState):
    """Lets in whom it was told to let in, and not to put out since.

    Commands are ``["let-in", name]`` and ``["put-out", name]``; the result is whether the name was known.
    """

    def __init__(self) -> None:
        self._known = {NAMES[0]: 0, NAMES[1]: 0}  # name -> index of the entry that let it in

    def judge(
        self,
        credential: bytes | None,
        request: Request,
        value: Any,  # noqa: ARG002 - the interface's
        *,
        now_ms: int,  # noqa: ARG002
        machine: StateMachine,  # noqa: ARG002
    ) -> None:
        if credential is not None and credential not in self._known:
            raise CommandError(NOT_PERMITTED, f"this caller may make no {request.value}")

    def apply(self, command: Any, context: ApplyContext) -> Any:
        what, name = command
        was = name in self._known
        if what == "let-in":
            self._known[name] = context.index
        elif not was:
            raise CommandError("not-in", "it was not let in")
        else:
            del self._known[name]
        return was

    def query(self, query: Any) -> Any:
        return self._known.get(query[1])

    def savepoint(self) -> Any:
        return dict(self._known)

    def rollback(self, savepoint: Any) -> None:
        self._known = savepoint

    def snapshot(self) -> Any:
        return [[name, index] for name, index in sorted(self._known.items())]

    def restore(self, snapshot: Any) -> None:
        self._known = dict(snapshot)


def draw_system_command(rng: Random) -> tuple[object, ...]:
    """Draw who is let in or put out by one entry."""
    if rng.random() < 0.2:
        return tuple(["let-in", name] for name in NAMES)
    return ([rng.choice(("let-in", "put-out")), rng.choice(NAMES)],)


def draw_system_query(rng: Random) -> object:
    """Draw a question about one caller."""
    return ["known", rng.choice(NAMES)]


class SystemRecorder(SystemState):
    """Opens the clients' envelopes for ``inner``, as ``Recorder`` does for the machine.

    Every command is judged before anything of its entry is applied, so here the oracles hear of each: where
    it stands, and who may not ask it.

    Args:
        judged: told of every command that is judged; returns its call and its place in the log.
        executed: told of every command that is applied.
        refused: told of every call that is refused, and where.
    """

    def __init__(self, inner: SystemState, judged: Judged, executed: Executed, refused: Refused) -> None:
        self.inner = inner
        self._judged = judged
        self._executed = executed
        self._refused = refused

    def judge(
        self,
        credential: bytes | None,
        request: Request,
        value: Any,
        *,
        now_ms: int,
        machine: StateMachine,
    ) -> None:
        if request is Request.QUERY or request is Request.SYSTEM_QUERY:
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
