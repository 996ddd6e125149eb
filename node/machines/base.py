"""What a replicated state machine is.

``apply`` must be deterministic: no clock, no chance, no I/O, no iteration over unordered sets. Commands,
queries and results are plain CBOR data (None, bool, int, str, bytes, lists, dicts with text keys).
"""

import copy
import re
from abc import ABC, abstractmethod
from enum import Enum
from typing import Any, Final

from msgspec import Struct

from node.machines.keys import Touched

_VERSIONED: Final = re.compile(r"(.+)/v([1-9][0-9]{0,3})", re.DOTALL)


class Preference(Enum):
    """How much a node wants to lead. Local: not in the GroupId, advertised to peers."""

    NORMAL = "normal"
    RELUCTANT = "reluctant"
    OBSERVER = "observer"


class ApplyContext(Struct, frozen=True, gc=False):
    """Equal on every node for the same entry. A ``Struct`` because every command has one made for it.

    Attributes:
        term: of the entry.
        index: of the entry, the revision that etcd users think in.
        sub: position of the command within its entry, from 0.
        time_ms: of the entry, Unix milliseconds, monotone in the log. It goes by the leader's monotonic clock
            and follows its wall clock only slowly (at most a tenth faster or slower), for hosts can set that.
        group_id: 32 bytes.
        credential: of whoever asked, 1 to 32 bytes; None: a member of the group by itself.
        version: which version of the machine the group runs, one of ``StateMachine.versions``.
    """

    term: int
    index: int
    sub: int
    time_ms: int
    group_id: bytes
    credential: bytes | None = None
    version: int = 1


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


class StateMachine(ABC):
    """Subclass it, and name it ``module:Class`` in the configuration."""

    @property
    @abstractmethod
    def signature(self) -> str:
        """Stable name and version, such as ``example.org/ledger/v1``; see ``family`` and ``versions``."""

    @property
    def family(self) -> str:
        """What it is, whatever its version: the ``signature`` without its ``/v1``. Part of the GroupId."""
        versioned = _VERSIONED.fullmatch(self.signature)
        return self.signature if versioned is None else versioned[1]

    @property
    def versions(self) -> range:
        """The versions whose commands this code applies as they always were: that of the ``signature``.

        A group begins with the highest that all its founders have, and ``apply`` is told which one it runs
        (``ApplyContext.version``). Code that also knows an older version is one of several here: give both,
        as ``range(1, 3)``, and every command of version 1 has the result that it had with the older code.
        """
        versioned = _VERSIONED.fullmatch(self.signature)
        version = 1 if versioned is None else int(versioned[2])
        return range(version, version + 1)

    @property
    def leadership_preference(self) -> Preference:
        """How much a node with this machine wants to lead, unless its configuration says otherwise."""
        return Preference.NORMAL

    @abstractmethod
    def apply(self, command: Any, context: ApplyContext) -> Any:
        """Execute one committed command and return its result.

        Raises:
            CommandError: a recorded, deterministic refusal. Any other exception is recorded too, as
                ``apply-raised``; either way the state is rolled back to before the entry.
        """

    # Not abstract: a machine need not know beforehand.
    def check(self, command: Any) -> None:  # noqa: B027
        """Return unless ``apply`` refuses ``command`` in every state, and as every one of ``versions``.

        The node that a caller asks does so before the log: what no machine takes costs an answer there, and
        no place in every member's log. It never replaces what ``apply`` checks, and never looks at the state.

        Raises:
            CommandError: the one that ``apply`` would raise.
        """

    @abstractmethod
    def query(self, query: Any) -> Any:
        """Answer from the current state without changing it.

        Raises:
            CommandError: the query makes no sense.
        """

    # Not abstract: a machine need not have keys.
    def keys_of(self, command: Any) -> Touched | None:  # noqa: ARG002
        """Return every key that ``command`` touches, whatever the state: who may execute it depends on that.

        None: this machine does not say, so whoever is limited to key prefixes may execute nothing.

        Raises:
            CommandError: ``apply`` would refuse it too.
        """
        return None

    def keys_of_query(self, query: Any) -> Touched | None:  # noqa: ARG002
        """The same for a query."""
        return None

    def migrate(self, old: int, new: int) -> None:
        """Turn the state of version ``old`` into that of ``new``, both in ``versions``; equally everywhere.

        Raises:
            CommandError: refused, as this one refuses it; the group goes on as version ``old``.
        """
        raise CommandError(
            "machine-version-change-unsupported",
            f"this machine cannot turn its state from version {old} into version {new}",
        )

    def savepoint(self) -> Any:
        """Return what ``rollback`` needs to undo everything that follows.

        The default copies the whole state, which is always right and slow for a large state; a machine
        that keeps an undo log overrides both (see ``KeyValue``).
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
        """Replace the whole state by a snapshot's."""
        raise NotImplementedError(f"{type(self).__name__} does not offer snapshots")
