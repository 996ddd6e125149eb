"""What the processes of nodes and of their starters report: one JSON object a line, on standard output.

A node reports to whatever started it: ``bondstone dev``, an image's console, a service manager. ``bondstone
dev`` and the runner of images (``tdx-images/run.py``) follow what they have started, and report in turn. An
event is written by the program that makes the value, and read by its reader as the same type.
"""

from collections.abc import Callable
from typing import Any, Final, get_args

import msgspec
from msgspec import UNSET, Struct, UnsetType


class ProcessEvent(Struct, frozen=True, tag_field="event"):
    """One line. Its ``event`` is the tag of the type."""

    def fields(self) -> dict[str, Any]:
        """Return the members of the JSON object; ``event`` is the first."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields


# ---- a node -----------------------------------------------------------------
class MachineNotMeasured(ProcessEvent, frozen=True, tag="machine-not-measured"):
    """The node runs in a TD, and its state machine is imported from outside of any image."""

    name: str
    state_machine: str
    message: str


class Listening(ProcessEvent, frozen=True, tag="listening"):
    """The node's API and its bonds accept connections.

    Attributes:
        peer_id: of this incarnation, 64 hex digits.
        group_id: 64 hex digits; None for a node that waits to receive its group key.
    """

    name: str
    pid: int
    api: str
    bond: str
    peer_id: str
    group_id: str | None
    mock: bool


class FirstBond(ProcessEvent, frozen=True, tag="bonded"):
    """The node formed its first bond."""


class BecameReady(ProcessEvent, frozen=True, tag="ready"):
    """The node is ready for the first time, as a member of this cluster."""

    cluster: str | None


class NoLongerReady(ProcessEvent, frozen=True, tag="not-ready"):
    """The node is not ready any more, or will never be. ``reason`` is a stable code."""

    reason: str
    message: str


class ReadyAgain(ProcessEvent, frozen=True, tag="ready-again"):
    """The node is ready, after a ``not-ready``."""


class FetchingState(ProcessEvent, frozen=True, tag="fetching-state"):
    """The node takes the group's state from its peers: about once a second, while it comes forward.

    Attributes:
        done: bytes that are here, of ``total``.
        peers: how many serve it.
        bytes_per_s: since the report before.
    """

    done: int
    total: int
    peers: int
    bytes_per_s: int


class KeyProvisioned(ProcessEvent, frozen=True, tag="provisioned"):
    """The node received its group key over the API."""

    group_id: str


class NodeStopped(ProcessEvent, frozen=True, tag="stopped"):
    """The last line of a node that was stopped."""

    name: str


NodeEvent = (
    MachineNotMeasured
    | Listening
    | FirstBond
    | BecameReady
    | NoLongerReady
    | ReadyAgain
    | FetchingState
    | KeyProvisioned
    | NodeStopped
)
Reporter = Callable[[ProcessEvent], None]
"""Receives the events of a process."""


# ---- a node in a guest of an image ------------------------------------------
class GroupDocumentRead(ProcessEvent, frozen=True, tag="group-document"):
    """The guest runs with this group document.

    Attributes:
        sha384: of the document, as MRCONFIGID has it, 96 hex digits.
        measured: whether the TD's MRCONFIGID is set, and so holds this digest.
    """

    sha384: str
    measured: bool


class ConfigurationRefused(ProcessEvent, frozen=True, tag="configuration-refused"):
    """The guest does not run with this configuration. ``reason`` is a stable code."""

    reason: str
    message: str


class StartRefused(ProcessEvent, frozen=True, tag="refused"):
    """The node did not start, or could not go on. ``error`` is the class of the failure."""

    error: str
    message: str


# ---- bondstone dev ----------------------------------------------------------
class NodeStarted(ProcessEvent, frozen=True, tag="node-started"):
    name: str
    pid: int


class NodeBonded(ProcessEvent, frozen=True, tag="node-bonded"):
    name: str


class NodeNotReady(ProcessEvent, frozen=True, tag="node-not-ready"):
    reason: str
    message: str
    name: str


class NodeReadyAgain(ProcessEvent, frozen=True, tag="node-ready-again"):
    name: str


class NodeExited(ProcessEvent, frozen=True, tag="node-exited"):
    """A node's process ended. ``expected``: the cluster stops; ``restart``: a command for a shell."""

    name: str
    pid: int
    code: int
    expected: bool
    log: str
    restart: str


class DevNodeView(Struct, frozen=True):
    """One node of a local cluster, for its user. ``command`` starts it again, in a shell."""

    name: str
    pid: int
    api: str
    bond: str
    peer_id: str
    data_dir: str
    command: str


class ClusterReady(ProcessEvent, frozen=True, tag="ready"):
    """Every node is ready. ``token`` is the secret of an administrator."""

    group_id: str
    nodes: tuple[DevNodeView, ...]
    token: str
    ca: str


class ClusterStopped(ProcessEvent, frozen=True, tag="stopped"):
    """The last line of ``bondstone dev``."""


DevEvent = (
    NodeStarted | NodeBonded | NodeNotReady | NodeReadyAgain | NodeExited | ClusterReady | ClusterStopped
)


# ---- guests of an image -----------------------------------------------------
class GuestsPrepared(ProcessEvent, frozen=True, tag="group"):
    """The files of a group of emulated guests are written; ``urls`` has the API of each guest."""

    mock: bool
    group_document: str
    policy: str
    trust_root: str
    token_file: str
    urls: tuple[str, ...]


class GuestStarted(ProcessEvent, frozen=True, tag="guest-started"):
    """A guest's process runs. ``console``: the file that its console is written to.

    ``api``: not on a ``bridge``, where the guest's address comes from DHCP.
    """

    number: int
    pid: int
    console: str
    api: str | UnsetType = UNSET
    bond: str | UnsetType = UNSET
    image: str | UnsetType = UNSET
    bridge: str | UnsetType = UNSET


class ConsoleLine(ProcessEvent, frozen=True, tag="console"):
    """A JSON object on a guest's console. ``line``: as it is; the guest's host can forge it."""

    number: int
    line: dict[str, Any]


class GuestEnded(ProcessEvent, frozen=True, tag="guest-ended"):
    number: int
    exit_code: int


GuestsEvent = GuestsPrepared | GuestStarted | ConsoleLine | GuestEnded


# ---- reading ----------------------------------------------------------------
class _Tagged(Struct):
    event: str


_NODE_TAGS: Final = frozenset(str(kind.__struct_config__.tag) for kind in get_args(NodeEvent))
_NODE_EVENTS: Final[msgspec.json.Decoder[NodeEvent]] = msgspec.json.Decoder(NodeEvent)
_GUESTS_EVENTS: Final[msgspec.json.Decoder[GuestsEvent]] = msgspec.json.Decoder(GuestsEvent)


def read_node_event(line: bytes) -> NodeEvent | None:
    """Return the event that a node reported with this line; None if the line is none of a node's.

    Raises:
        msgspec.ValidationError: the event has other fields: the node is of another release.
    """
    try:
        tag = msgspec.json.decode(line, type=_Tagged).event
    except msgspec.DecodeError:
        return None
    return _NODE_EVENTS.decode(line) if tag in _NODE_TAGS else None


def read_guests_event(line: str) -> GuestsEvent:
    """Return the event that the runner of images reported with this line.

    Raises:
        msgspec.DecodeError: the runner is of another release.
    """
    return _GUESTS_EVENTS.decode(line)
