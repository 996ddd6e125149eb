"""What a replicated state machine is.

``apply`` must be deterministic: no clock, no randomness, no I/O, no iteration over unordered sets. Commands,
queries and results are plain CBOR data (None, bool, int, str, bytes, lists, dicts with text keys).
"""

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Final, Protocol

from msgspec import Struct

from node.machines.keys import Touched
from node.peers import Preference
from node.sync.snapshot_sync import SnapshotSync
from node.sync.state_sync import LogReplaySync, StateSync

# What a group whose document sets no `store.quota_bytes` gets.
QUOTA_BYTES_DEFAULT: Final = 256 * 1024 * 1024
_VERSIONED: Final = re.compile(r"(.+)/v([1-9][0-9]{0,3})", re.DOTALL)


class ApplyContext(Struct, frozen=True, gc=False):
    """Equal on every node for the same entry. A ``Struct``, because one is made for every command.

    Attributes:
        term: of the entry.
        index: of the entry; it is what etcd calls the revision.
        sub: position of the command within its entry, from 0.
        time_ms: of the entry, Unix milliseconds, monotone in the log. It follows the leader's monotonic
            clock. It approaches the leader's wall clock only slowly (at most a tenth faster or slower),
            because the host can set that clock.
        group_id: 32 bytes.
        credential: of the caller, 1 to 32 bytes; None: a member of the group acts for itself.
        version: the version of the machine that the group runs, one of ``StateMachine.versions``.
        quota_bytes: how much the machine's state may take in memory, as the group has agreed
            (``store.quota_bytes``). The machine refuses what would grow it beyond; one that ignores this is
            held up by the members' memory budgets alone.
    """

    term: int
    index: int
    sub: int
    time_ms: int
    group_id: bytes
    credential: bytes | None = None
    version: int = 1
    quota_bytes: int = QUOTA_BYTES_DEFAULT


class CommandError(Exception):
    """Raise it in ``apply`` or ``query`` to refuse. Deterministic; the state stays as it was.

    Args:
        code: stable kebab-case code.
        message: one sentence for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class FrozenState(Protocol):
    """A state as it was when it was frozen, in items, while the machine goes on.

    Equal states give equal items, whatever happens to the machine meanwhile.
    """

    def items(self) -> Iterator[Any]:
        """Yield the whole state as plain CBOR data. Each item takes at most a millisecond or so to make."""
        ...

    def release(self) -> None:
        """Let go: no more items are wanted."""
        ...


class Thawing(Protocol):
    """A frozen state on its way back into a machine, which keeps its present state until ``finish``."""

    def take(self, item: Any) -> None:
        """Take the next item.

        Raises:
            ValueError: this is not the next item of such a state.
        """
        ...

    def finish(self) -> None:
        """Replace the machine's whole state at once.

        Raises:
            ValueError: items are missing; the machine's state is unchanged.
        """
        ...


class StateMachine(ABC):
    """The base class of every machine. The configuration names a subclass as ``module:Class``."""

    @property
    @abstractmethod
    def signature(self) -> str:
        """Stable name and version, such as ``example.org/ledger/v1``; see ``family`` and ``versions``."""

    @property
    def family(self) -> str:
        """The machine's name without its version: the ``signature`` without ``/v1``. Part of the GroupId."""
        versioned = _VERSIONED.fullmatch(self.signature)
        return self.signature if versioned is None else versioned[1]

    @property
    def versions(self) -> range:
        """The versions whose commands this code applies; by default only the version in the ``signature``.

        A group begins with the highest version that all its founders have. ``apply`` receives the version
        that the group runs (``ApplyContext.version``). Code that also knows an older version returns both,
        such as ``range(1, 3)``. Every command of version 1 must then have the result that the older code
        gave.
        """
        versioned = _VERSIONED.fullmatch(self.signature)
        version = 1 if versioned is None else int(versioned[2])
        return range(version, version + 1)

    @property
    def leadership_preference(self) -> Preference:
        """How much a node with this machine wants to lead, unless its configuration sets it."""
        return Preference.NORMAL

    @abstractmethod
    def apply(self, command: Any, context: ApplyContext) -> Any:
        """Execute one committed command and return its result.

        Raises:
            CommandError: a recorded, deterministic refusal. Any other exception is recorded too, as
                ``apply-raised``; either way the state is rolled back to before the entry.
        """

    # Not abstract: a machine need not be able to check a command beforehand.
    def check(self, command: Any) -> None:  # noqa: B027
        """Return unless ``apply`` refuses ``command`` in every state and under each of ``versions``.

        The node that receives the command calls this before the command enters the log. A command that is
        always refused then costs one answer, and no space in every member's log. This check never replaces
        the checks of ``apply``, and never reads the state.

        Raises:
            CommandError: the one that ``apply`` would raise.
        """

    @property
    def memory_bytes(self) -> int:
        """About how much memory the state takes, at once and without looking at all of it.

        It counts towards the member's memory budget and decides nothing in ``apply``. 0: the machine does
        not know; the size of the last snapshot counts instead.
        """
        return 0

    def frees(self, command: Any) -> bool:  # noqa: ARG002
        """Return whether ``command`` can only make the state smaller, in every state.

        Such a command is taken when a member has too little memory for any other. The default refuses all.
        """
        return False

    @abstractmethod
    def query(self, query: Any) -> Any:
        """Answer from the current state without changing it.

        Raises:
            CommandError: the query makes no sense.
        """

    # Not abstract: a machine need not have keys.
    def keys_of(self, command: Any) -> Touched | None:  # noqa: ARG002
        """Return every key that ``command`` touches, in any state. It decides which callers may execute it.

        None: this machine does not report keys, so a caller that is limited to key prefixes may execute
        nothing.

        Raises:
            CommandError: ``apply`` would refuse the command too.
        """
        return None

    def keys_of_query(self, query: Any) -> Touched | None:  # noqa: ARG002
        """The same for a query."""
        return None

    def migrate(self, old: int, new: int) -> None:
        """Turn the state of version ``old`` into that of ``new``, both in ``versions``; equally everywhere.

        Raises:
            CommandError: the machine refuses to migrate; the group goes on with version ``old``.
        """
        raise CommandError(
            "machine-version-change-unsupported",
            f"this machine cannot turn its state from version {old} into version {new}",
        )

    def savepoint(self) -> Any:
        """Return what ``rollback`` needs to undo everything that follows.

        The default copies the whole state, which is always right, but slow for a large state. A machine that
        keeps an undo log overrides both methods (see ``KeyValue``).
        """
        return copy.deepcopy(self.__dict__)

    def rollback(self, savepoint: Any) -> None:
        """Return to the state at ``savepoint``."""
        self.__dict__.clear()
        self.__dict__.update(savepoint)

    def snapshot(self) -> Any:
        """Return the whole state as plain CBOR data: equal states give equal snapshots."""
        raise NotImplementedError(f"{type(self).__name__} does not offer snapshots")

    def restore(self, snapshot: Any) -> None:
        """Replace the whole state by the state in ``snapshot``."""
        raise NotImplementedError(f"{type(self).__name__} does not offer snapshots")

    def state_sync(self) -> StateSync:
        """Return how a member gets the group's state when no peer has the entries that it lacks any more.

        The signature is part of the GroupId. By default it is ``SnapshotSync`` for a machine that offers
        snapshots, and ``LogReplaySync`` for any other. A sync that takes snapshots needs a machine that
        offers them: core compares whatever a session fetched with what a quorum of the group computed.
        """
        return SnapshotSync() if self.offers_snapshots else LogReplaySync()

    @property
    def offers_snapshots(self) -> bool:
        """Whether ``snapshot`` and ``restore``, or ``freeze`` and ``thaw``, are overridden.

        The log of a group without is never cut: a state that nobody can take back replaces no log.
        """
        cls = type(self)
        whole = cls.snapshot is not StateMachine.snapshot and cls.restore is not StateMachine.restore
        return whole or (cls.freeze is not StateMachine.freeze and cls.thaw is not StateMachine.thaw)

    def freeze(self) -> FrozenState | None:
        """Return the present state in items, at once: a snapshot of it is made while commands are applied.

        None: ``snapshot`` returns the state in one piece, and nothing else happens while it does. Override
        this with ``thaw`` for a state that takes longer than some milliseconds.
        """
        return None

    def thaw(self) -> Thawing:
        """Return what takes the items of ``freeze``. Needed only if ``freeze`` is overridden."""
        raise NotImplementedError(f"{type(self).__name__} does not offer to thaw")
