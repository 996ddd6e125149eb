"""Every queue of a member has a bound, from its settings or a constant, and may never exceed it.

A member also keeps the log itself (the entries, the state, the sessions' outcomes). That is not a queue.
"""

from typing import Final

from node.raft.budget import ENTRY_COST
from node.raft.client_session import PENDING_BYTES_MAX
from node.raft.log import entry_bytes
from node.raft.member import Member
from node.raft.messages import DISSOLVED_MAX
from node.raft.ranges import PullState
from node.raft.snapshot_state import Installing
from node.raft.tenure import Leadership
from node.raft.types import EntryKind
from node.simulation.errors import InvariantError
from node.simulation.process import Process
from node.sync.fetching import WINDOW
from node.sync.snapshot_sync import ChunkSession

BUDGETS_MAX: Final = 1 << 20  # a simulated member with a larger budget is not meant to reach it
ON_ITS_WAY_BYTES: Final = 4096
# A leader checks that there is room before it writes a Forward or a batch of its own, then writes all of it.
# It writes a no-op, a Cfg and a DISSOLVE without this check.
_UNASKED: Final = 3
# Promises that wait for one write to the disk: of each kind the member keeps the latest to each bonded peer.
# Only vote requests go to all peers, and of them it keeps the latest.
_KINDS_OF_PROMISE: Final = 6


def check_buffers(process: Process) -> None:
    """Look at every queue of ``process``.

    Raises:
        InvariantError: a queue exceeds its bound.
    """
    member = process.member
    settings = member.settings
    reads, session, pending_max = member.reads, member.session, settings.pending_max
    current = reads.round
    confirming = 0 if current is None else len(current.queries)
    waiting = confirming + len(reads.asking) + len(reads.settled) + len(reads.leased)
    if waiting > pending_max:
        _exceeded(process, "waiting reads", waiting, pending_max)
    peers = len(member.peers)
    if len(reads.remote) > peers:
        _exceeded(process, "reads of peers", len(reads.remote), peers)
    if len(session.tokens) > pending_max:
        _exceeded(process, "unanswered commands", len(session.tokens), pending_max)
    if session.pending_bytes > PENDING_BYTES_MAX:
        _exceeded(process, "bytes of unanswered commands", session.pending_bytes, PENDING_BYTES_MAX)
    if len(session.in_flight) > settings.session_window:
        _exceeded(process, "commands in flight", len(session.in_flight), settings.session_window)
    if len(member.founding_state.dissolved) > DISSOLVED_MAX:
        _exceeded(process, "clusters left", len(member.founding_state.dissolved), DISSOLVED_MAX)
    if member.tenure.held:
        writes = member.serial - member.persisted
        _at_most(process, "held promises", len(member.tenure.held), writes * (_KINDS_OF_PROMISE * peers + 1))
    if member.tenure.leadership is not None:
        _check_leader(process, member, member.tenure.leadership)
    if member.tenure.pull is not None:
        _check_pull(process, member, member.tenure.pull)
    _at_most(process, "offers of snapshots", len(member.tenure.offers), peers)
    _at_most(process, "reports about snapshots", len(member.tenure.snaps.reports), peers + 1)
    if member.tenure.installing is not None:
        _check_install(process, member, member.tenure.installing)


def check_memory(process: Process) -> None:
    """Look at how much a voter with a budget keeps of what clients wrote.

    The group's own entries do not count: a voter has room for them beyond its mark, and a run of 600 events
    may hold more of them than its small budgets are meant for.

    Raises:
        InvariantError: commands in its log, a snapshot in the making and one that it fetches exceed its
            budget, and what a leader may write while one report is on its way.
    """
    member = process.member
    bound = member.budget.size
    if bound >= BUDGETS_MAX or not member.tenure.is_voter:
        return
    making, installing = member.tenure.snaps.keeper.making, member.tenure.installing
    size = 0 if making is None else making.memory_bytes
    size += 0 if installing is None else installing.memory_bytes
    log = process.log
    for index in range(log.base.index + 1, log.last().index + 1):
        entry = log.get(index)
        if entry.kind is EntryKind.COMMAND:
            size += entry_bytes(entry) + ENTRY_COST
    if size > bound + ON_ITS_WAY_BYTES:
        raise InvariantError("memory-bounded", f"{process}: {size} bytes, of {bound}")


def _check_leader(process: Process, member: Member, leadership: Leadership) -> None:
    settings = member.settings
    last = member.log.last().index
    # Entries that earlier leaders left behind are not bounded by this leader.
    open_entries = last - max(member.commit, leadership.noop_index - 1)
    open_max = settings.pending_max + settings.session_window + _UNASKED
    if open_entries > open_max:
        _exceeded(process, "uncommitted entries", open_entries, open_max)
    unapplied = last - member.replica.applied.index
    if len(leadership.proposed) > unapplied:
        _exceeded(process, "proposals", len(leadership.proposed), unapplied)


def _check_install(process: Process, member: Member, installing: Installing) -> None:
    _at_most(process, "sources of a snapshot", len(installing.sources), len(member.peers))
    if isinstance(installing.session, ChunkSession):
        asked = [installing.session.fetching.outstanding(peer) for peer in member.peers]
        _at_most(process, "chunks of a snapshot asked of one peer", max(asked, default=0), WINDOW)


def _check_pull(process: Process, member: Member, pull: PullState) -> None:
    settings = member.settings
    bytes_max = settings.catchup_buffer_bytes_max
    _at_most(process, "kept Appends (bytes)", pull.buffer_bytes, bytes_max)
    chunks_max = max(1, bytes_max // settings.chunk_bytes_max)
    _at_most(process, "chunks asked for or held", pull.outstanding, chunks_max)
    _at_most(process, "sources", len(pull.in_flight), len(member.peers))
    # Ranges to ask again are disjoint and not empty.
    _at_most(process, "ranges to ask again", len(pull.again), pull.at)


def _at_most(process: Process, what: str, count: int, bound: int) -> None:
    if count > bound:
        _exceeded(process, what, count, bound)


def _exceeded(process: Process, what: str, count: int, bound: int) -> None:
    raise InvariantError("buffers-bounded", f"{process}: {count} {what}, of {bound} at most")
