"""The relying party and the service: bonds, replication, state machines, HTTP API, command line.

A group of your own state machine, in your own process (docs/groups.md):

    from node import AuditLog, Bootstrap, Counter, Founding, GroupKey, Network, Settings

    network = Network(
        name="example", identity=identity, listen=("127.0.0.1", 0), audit=AuditLog(None, utc_now), issuers=[]
    )
    await network.start()
    group = (
        network.groups.with_key(GroupKey.generate())
        .with_state_machine(Counter())
        .with_consensus(Settings(min_voters=1), Founding(bootstrap=Bootstrap.INIT))
        .join()
    )
    await group.when().online()
    executed = await group.execute({"op": "add", "by": 2})
    await network.close()

``identity`` is ``enclave.Identity.generate(name, now)``, and ``utc_now`` returns the time, aware. The client
of a running group is ``Client`` or ``AsyncClient``; ``node.client`` has their errors, ``node.collections``
typed containers that a group holds, ``node.simulation`` the simulator, ``node.sync`` what a state sync of
your own needs.

These names are the package's interface. The modules behind them may move.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from node.audit import AuditLog as AuditLog
    from node.client import AsyncClient as AsyncClient
    from node.client import BondstoneClient as BondstoneClient
    from node.client import Client as Client
    from node.errors import ConfigError as ConfigError
    from node.errors import NodeError as NodeError
    from node.group.errors import CommandFailedError as CommandFailedError
    from node.group.errors import GroupClosedError as GroupClosedError
    from node.group.errors import GroupError as GroupError
    from node.group.errors import NotExecutedError as NotExecutedError
    from node.group.errors import OutcomeUnknownError as OutcomeUnknownError
    from node.group.group import Group as Group
    from node.group.identity import GroupKey as GroupKey
    from node.group.network import Network as Network
    from node.group_document import GroupDocument as GroupDocument
    from node.group_document import load_group_document as load_group_document
    from node.machines.base import ApplyContext as ApplyContext
    from node.machines.base import CommandError as CommandError
    from node.machines.base import StateMachine as StateMachine
    from node.machines.collections.machine import CollectionsMachine as CollectionsMachine
    from node.machines.counter import Counter as Counter
    from node.machines.kv import KeyValue as KeyValue
    from node.peers import Preference as Preference
    from node.raft.types import Bootstrap as Bootstrap
    from node.raft.types import Consistency as Consistency
    from node.raft.types import Founding as Founding
    from node.raft.types import Settings as Settings

# The module of each name. It is imported on first use, so that one command does not load all modules.
_PLACES: Final = {
    "ApplyContext": "node.machines.base",
    "AuditLog": "node.audit",
    "AsyncClient": "node.client",
    "BondstoneClient": "node.client",
    "Client": "node.client",
    "Bootstrap": "node.raft.types",
    "CollectionsMachine": "node.machines.collections.machine",
    "CommandError": "node.machines.base",
    "CommandFailedError": "node.group.errors",
    "ConfigError": "node.errors",
    "Consistency": "node.raft.types",
    "Counter": "node.machines.counter",
    "Founding": "node.raft.types",
    "Group": "node.group.group",
    "GroupClosedError": "node.group.errors",
    "GroupDocument": "node.group_document",
    "GroupError": "node.group.errors",
    "GroupKey": "node.group.identity",
    "KeyValue": "node.machines.kv",
    "Network": "node.group.network",
    "NodeError": "node.errors",
    "NotExecutedError": "node.group.errors",
    "OutcomeUnknownError": "node.group.errors",
    "Preference": "node.peers",
    "Settings": "node.raft.types",
    "StateMachine": "node.machines.base",
    "load_group_document": "node.group_document",
}
__all__ = [
    "ApplyContext",
    "AsyncClient",
    "AuditLog",
    "BondstoneClient",
    "Bootstrap",
    "Client",
    "CollectionsMachine",
    "CommandError",
    "CommandFailedError",
    "ConfigError",
    "Consistency",
    "Counter",
    "Founding",
    "Group",
    "GroupClosedError",
    "GroupDocument",
    "GroupError",
    "GroupKey",
    "KeyValue",
    "Network",
    "NodeError",
    "NotExecutedError",
    "OutcomeUnknownError",
    "Preference",
    "Settings",
    "StateMachine",
    "load_group_document",
]


def __getattr__(name: str) -> Any:
    """Import a name of the interface on its first use (PEP 562)."""
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(place), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
