"""The bytes of feature levels 1 and 2: what members send, write and keep, each thing once, from fixed values.

    python -m tests.node.recorded.transcript

writes ``level-1.json`` and ``level-2.json`` beside this file anew. Do that only while no release has the level;
afterwards its bytes stay as they are, and whatever changes stands behind a higher level (docs/features.md).
"""

import hashlib
import json
from pathlib import Path

from attestation.encoding.canonical import encode as cbor
from node.bonds.core.handshake import ConnectionRole, proof_of
from node.bonds.wire import messages as bonds
from node.features import Build, Levels, Span
from node.machines.base import ApplyContext, StateMachine
from node.machines.system import SystemState
from node.peers import Incarnation, Preference
from node.raft import messages as raft
from node.raft import wire
from node.raft.entries import (
    EMPTY_PAYLOAD,
    SessionChange,
    Signatures,
    encode_command_body,
    encode_commands,
    encode_config,
    encode_number,
    encode_session,
    genesis_digest,
    make_entries,
    session_id,
)
from node.raft.events import SaveBase, SaveEnd, SaveEntries, SaveTruncation, SaveVote
from node.raft.quorum import Config
from node.raft.replica import Replica
from node.raft.types import (
    LOG_START,
    Bootstrap,
    Cursor,
    EntryKind,
    Key,
    Position,
    Settings,
)
from node.raft.whole import freeze
from node.storage.format import (
    MAGIC,
    MAGIC_5,
    NO_SEGMENT,
    Batches,
    LogSummary,
    encode_beginning,
    encode_identity,
    encode_records,
    file_head,
)
from node.sync.evidence import MARKER, Anchor, StateEvidence, encode_evidence
from node.sync.snapshot_sync import encode_answer
from tests.node.raft.cluster import FakeCredentials

PATH = Path(__file__).parent / "level-1.json"
PATH_2 = Path(__file__).parent / "level-2.json"
GROUP, NETWORK, CLUSTER = (hashlib.sha256(name).digest() for name in (b"group", b"network", b"cluster"))
A, B, C = (Incarnation(name, hashlib.sha256(name.encode()).digest()) for name in ("a", "b", "c"))
LEVELS = Levels(1, "example.org/sum", 1)
SALT = bytes(range(16))
SESSION = session_id(GROUP, A.id, 0)
START_MS = 1_790_000_000_000


class Sum(StateMachine):
    """Adds up, and knows a second version that subtracts."""

    versions = range(1, 3)

    def __init__(self):
        self.value = 0

    @property
    def signature(self):
        return "example.org/sum/v1"

    def apply(self, command, context: ApplyContext):
        self.value += command if context.version == 1 else -command
        return [self.value, context.index, context.sub, context.time_ms, context.credential]

    def query(self, query):
        return self.value

    def migrate(self, old, new):
        self.value += 1000

    def snapshot(self):
        return self.value

    def restore(self, snapshot):
        self.value = snapshot


class Facts(SystemState):
    """Remembers what it is given, and admits every peer but mallory."""

    def __init__(self):
        self.facts = []

    def judge(self, credential, request, value, *, now_ms, machine):
        if credential == b"mallory":
            raise ZeroDivisionError

    def apply(self, command, context):
        self.facts.append(command)
        return len(self.facts)

    def query(self, query):
        return self.facts

    def snapshot(self):
        return list(self.facts)

    def restore(self, snapshot):
        self.facts = list(snapshot)


# ---- the log ---------------------------------------------------------------------
def command(seq, *commands, key=None, credential=None, ack_below=1):
    return encode_commands(SESSION, seq, ack_below, key, encode_command_body(commands, credential))


def payloads():
    """Every kind of entry of this level, in an order in which a log may have them."""
    founders, nonce = (A, B), bytes(16)
    signed = genesis_digest(GROUP, nonce, founders, LEVELS)
    signatures = tuple(FakeCredentials(founder).sign(signed) for founder in founders)
    genesis = Signatures(nonce=nonce, signatures=signatures, levels=LEVELS)
    first = Config(epoch=1, voters=founders, tie=None, reason="genesis")
    second = Config(epoch=2, voters=(A, B, C), tie=B, reason=f"promote {C}")
    key = Key(b"order-7", START_MS + 7_500)
    opening = SessionChange("open", SESSION, A.id, START_MS)
    return [
        ("genesis", 1, EntryKind.CONFIG, encode_config(first, genesis)),
        ("no-op", 2, EntryKind.NOOP, EMPTY_PAYLOAD),
        ("session", 2, EntryKind.SESSION, encode_session(opening)),
        ("command", 2, EntryKind.COMMAND, command(1, 5)),
        ("command with a key", 2, EntryKind.COMMAND, command(2, 7, 8, key=key, ack_below=2)),
        ("the same once more", 2, EntryKind.COMMAND, command(3, 7, 8, key=key)),
        ("command of a caller", 3, EntryKind.COMMAND, command(4, 100, credential=b"alice")),
        ("command that is refused", 3, EntryKind.COMMAND, command(5, 1, credential=b"mallory")),
        ("all plain data", 3, EntryKind.SYSTEM, command(6, [None, True, -1, 2**70, "é", b"x", {"k": []}])),
        ("system command", 3, EntryKind.SYSTEM, command(7, ["tcb-seen", "0" * 12, 18], credential=b"a" * 32)),
        ("configuration", 3, EntryKind.CONFIG, encode_config(second)),
        ("malformed command", 3, EntryKind.COMMAND, b"\xff"),
        ("feature level", 3, EntryKind.FEATURE, encode_number(2)),
        ("version of the machine", 4, EntryKind.MACHINE, encode_number(2)),
        ("command of the new version", 4, EntryKind.COMMAND, command(300, 1, ack_below=5)),
        ("end", 4, EntryKind.DISSOLVE, EMPTY_PAYLOAD),
    ]


def log():
    parts = [
        (term, kind, START_MS + 1000 * place, payload)
        for place, (_, term, kind, payload) in enumerate(payloads())
    ]
    return make_entries(LOG_START, parts)


# ---- what is sent ------------------------------------------------------------------
def consensus_messages():
    """Every message of consensus."""
    entries = log()
    last = Position(entries[4].term, entries[4].index, entries[4].chain)
    first = Position(entries[0].term, entries[0].index, entries[0].chain)
    proposals = (
        raft.Proposal(EntryKind.SESSION, 0, entries[2].payload),
        raft.Proposal(EntryKind.COMMAND, 1, entries[3].payload),
        raft.Proposal(EntryKind.SYSTEM, 7, entries[9].payload),
    )
    return [
        raft.VoteRequest(CLUSTER, 5, True, last, (A, B, C), False),
        raft.VoteReply(CLUSTER, 5, False, raft.Vote.ABSTAIN, B, first),
        raft.TimeoutNow(CLUSTER, 5),
        raft.Append(CLUSTER, 4, first, entries[1:], 4, 70),
        raft.AppendReply(CLUSTER, 3, raft.Verdict.ACK, 4, 70, Cursor(3, 11)),
        raft.Avail(CLUSTER, 3),
        raft.AvailReply(CLUSTER, 3, 300),
        raft.Fetch(CLUSTER, 3, 1, first, 300),
        raft.Chunk(CLUSTER, 4, first, True, entries[1:], 0),
        raft.Forward(CLUSTER, 0, 1, proposals),
        raft.ForwardReply(CLUSTER, 3, 0, ((1, Cursor(2, 4)),), "gap", None),
        raft.ReadIndex(CLUSTER, 9),
        raft.ReadIndexReply(CLUSTER, 9, 3, 11),
        raft.Presence(None, 0, 0, Bootstrap.EXPECT, (A, B), (CLUSTER,), 2),
        raft.GenesisProposal(3, bytes(16), (A, B), LEVELS),
        raft.GenesisSignature(bytes(16), bytes(64)),
        raft.Genesis(entries[0]),
    ]


def bond_messages():
    """Every message of a bond."""
    entry = bonds.PeerEntry(
        peer=A, preference=Preference.RELUCTANT, addresses=("10.0.0.1:7443", "[::1]:7443"), api_url=None
    )
    other = bonds.PeerEntry(
        peer=B, preference=Preference.NORMAL, addresses=(), api_url="https://10.0.0.2:8443"
    )
    proof = proof_of(bytes(32), exporter=bytes(32), role=ConnectionRole.INITIATOR, peer_id=A.id)
    build = Build("bondstone 1.0.0", Span(1, 1), "example.org/sum", Span(1, 2))
    return [
        bonds.Hello(
            versions=(2,), network_id=NETWORK, group_id=GROUP, nonce=bytes(32), name="a", build=build
        ),
        bonds.Prove(proof=proof, entry=entry),
        bonds.Attest(tickets={"tdx": b"ticket", "jwt": b"token"}),
        bonds.Admit(peers=(entry, other)),
        bonds.Refuse(code=30403, reason="feature-level-too-low"),
        bonds.Ping(),
        bonds.Pong(),
        bonds.Departure(),
        bonds.PeerEntryUpdate(entry=entry),
        bonds.BondFormed(entry=other),
        bonds.ReattestRequest(nonce=bytes(32)),
        bonds.Reattest(nonce=bytes(32), tickets={"tdx": b"ticket"}),
        bonds.Payload(b"p" * 300),
        bonds.Fragment(1, last=True, data=b"f" * 30),
        bonds.ClaimsChanged(),
    ]


# ---- what is kept ------------------------------------------------------------------
def stored():
    """Return the file of a member that votes, takes all of the log, loses its end, and left a cluster."""
    entries = log()
    batches = Batches(SALT, MAGIC_5)
    bodies = [
        encode_identity(A),
        encode_records([SaveVote(1, B), SaveEntries(entries[:1])]),
        encode_records([SaveEntries(entries[1:]), SaveVote(3, None)]),
        encode_records([SaveTruncation(11), SaveEnd(CLUSTER), SaveVote(4, C)]),
    ]
    return file_head(SALT, MAGIC_5) + b"".join(batches.encode(body) for body in bodies)


def replayed(entries):
    """Apply ``entries``; return what became of each, and what the member then knows."""
    replica = Replica(Sum(), Facts(), Settings(), GROUP)
    outcomes = []
    for _, resolution in replica.apply(entries):
        outcomes.append("nothing" if resolution is None else repr(resolution.outcome))
    levels = replica.levels
    return {
        "outcomes": outcomes,
        "machine": replica.machine.snapshot(),
        "system": replica.system.digest().hex(),
        "levels": None if levels is None else levels.encode(),
    }


def recorded():
    """Return everything, as it is in the file."""
    entries = log()
    return {
        "entries": {
            name: {"kind": int(kind), "payload": payload.hex(), "chain": entry.chain.hex()}
            for (name, _, kind, payload), entry in zip(payloads(), entries, strict=True)
        },
        "consensus messages": {type(m).__name__: wire.encode(m).hex() for m in consensus_messages()},
        "bond messages": {type(m).__name__: bonds.encode(m).hex() for m in bond_messages()},
        "storage": {"magic": MAGIC_5.decode(), "file": stored().hex()},
        "replay": replayed(entries),
        "plain data": cbor([None, True, -1, 2**70, "é", b"x", {"b": 1, "a": 2}]).hex(),
    }


# ---- level 2 -------------------------------------------------------------------------
def evidence():
    last = log()[14]
    return StateEvidence(Anchor(last.term, last.index, last.chain), b"r" * 32, 3, 2 * 131_072 + 5, 131_072)


def consensus_messages_2():
    """Every message that level 2 adds or adds a field to, and those that came with it, sent at every level."""
    proof = (b"p" * 32, b"q" * 32)
    snapshot = b"r" * 32
    first = log()[0]
    return [
        raft.VoteReply(
            CLUSTER, 5, False, raft.Vote.DENIED, B, Position(1, 1, first.chain), verified=Cursor(4, 11)
        ),
        raft.SnapshotDigest(CLUSTER, 4, evidence()),
        raft.SnapshotOffer(CLUSTER, 12, evidence()),
        raft.SyncAsk(CLUSTER, snapshot, cbor([2])),
        raft.SyncAnswer(CLUSTER, snapshot, encode_answer(2, b"chunk", proof)),
        raft.MemoryReport(CLUSTER, 4, 12, 1_000, 2_000),
        raft.Overloaded(CLUSTER, 4, 2, (7, 9), B, 1_900, 2_000),
        raft.Alive(CLUSTER, GROUP),
    ]


def state():
    """Return the frames of the state that the recorded log leads to."""
    replica = Replica(Sum(), Facts(), Settings(), GROUP)
    list(replica.apply(log()[:15]))
    frames, release = freeze(replica)
    whole = b"".join(frames)
    release()
    return whole


def segments():
    """Return two segments of such a member, the later of which holds a base that covers the earlier one."""
    entries, summary = log(), LogSummary()
    first, second = Batches(SALT), Batches(SALT[::-1])
    early = [SaveVote(1, B), SaveEntries(entries[:9]), SaveEnd(CLUSTER), SaveVote(4, C)]
    data = [encode_identity(A), encode_beginning(1, NO_SEGMENT, summary), encode_records(early)]
    whole = file_head(SALT) + b"".join(map(first.encode, data))
    for record in early:
        summary.follow(record)
    late = [SaveEntries(entries[9:]), SaveBase(evidence())]
    data = [encode_identity(A), encode_beginning(2, first.digest, summary), encode_records(late)]
    return whole, file_head(SALT[::-1]) + b"".join(map(second.encode, data))


def recorded_2():
    return {
        "storage": {"magic": MAGIC.decode(), "segments": [segment.hex() for segment in segments()]},
        "entries": {"marker": MARKER.hex(), "evidence": encode_evidence(evidence()).hex()},
        "consensus messages": {type(m).__name__: wire.encode(m).hex() for m in consensus_messages_2()},
        "state": {"frames": state().hex()},
    }


if __name__ == "__main__":
    for path, what in ((PATH, recorded()), (PATH_2, recorded_2())):
        path.write_text(json.dumps(what, indent=1, ensure_ascii=False) + "\n")
