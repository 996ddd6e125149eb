"""The bytes of a snapshot do not change within a feature level.

While a group is being upgraded, members of both releases compare the digests of their states. One that puts the
same state into other bytes would halt as diverged. If this test fails, the change needs a new feature level, or
a new version of the machine: do not write the new digest here for the old level.
"""

from hashlib import sha256

from node.features import Levels
from node.machines.collections.machine import CollectionsMachine
from node.machines.kv import KeyValue
from node.machines.system import EmptySystem
from node.peers import Incarnation
from node.raft.entries import (
    SessionChange,
    Signatures,
    encode_command_body,
    encode_commands,
    encode_config,
    encode_session,
    make_entry,
)
from node.raft.quorum import Config
from node.raft.replica import Replica
from node.raft.types import LOG_START, EntryKind, Key, Position, Settings
from node.raft.whole import Loading, freeze
from node.sync.image import Cutter, frame, read_frames
from node.sync.merkle import MerkleTree

SESSION, OWNER = b"s" * 16, b"o" * 32


def entries():
    """The log of a group of one that has written to 300 keys."""
    at = LOG_START
    me = Incarnation("a", OWNER)
    genesis = encode_config(
        Config(epoch=1, voters=(me,), tie=None, reason="genesis"),
        Signatures(nonce=bytes(16), signatures=(bytes(64),), levels=Levels(2, "bondstone/kv", 1)),
    )
    payloads = [(EntryKind.CONFIG, genesis), (EntryKind.NOOP, b"\x80")]
    payloads.append((EntryKind.SESSION, encode_session(SessionChange("open", SESSION, OWNER, 1000))))
    for seq in range(1, 311):
        body = encode_command_body(
            ({"op": "put", "key": f"key {seq % 300}", "value": f"value {seq}", "prev": seq % 2 == 0},), None
        )
        key = Key(b"key of %d" % seq, 10**12) if seq % 3 == 0 else None
        payloads.append((EntryKind.COMMAND, encode_commands(SESSION, seq, max(1, seq - 40), key, body)))
    for number, (kind, payload) in enumerate(payloads):
        entry = make_entry(at, term=1 + number // 150, kind=kind, time_ms=1000 + number, payload=payload)
        at = Position(entry.term, entry.index, entry.chain)
        yield entry


def replica():
    return Replica(KeyValue(), EmptySystem(), Settings(), bytes(32))


def cut(of):
    frames, release = freeze(of)
    cutter = Cutter(4096)
    for data in frames:
        cutter.add(data)
    cutter.end()
    release()
    return cutter


def test_the_state_of_a_group_has_the_bytes_of_its_feature_level():
    one = replica()
    for _ in one.apply(list(entries())):
        pass
    assert one.table.key_use().keys == 103
    assert one.machine.query({"op": "get", "key": "key 9"})["item"]["version"] == 2
    cutter = cut(one)

    assert (len(cutter.chunks), cutter.size) == (5, 19789)
    assert (
        MerkleTree(cutter.leaves).root.hex()
        == "bff33a200a21fd63fd463d962dba25023deceb8b601320c8f883976da0db39a5"
    )
    # A member that took this state hands out the same bytes.
    loading = Loading(replica())
    for section, value in read_frames(cutter.chunks):
        loading.take(section, value)
    assert list(cut(loading.finish()).chunks) == list(cutter.chunks)


def test_the_state_of_collections_has_the_bytes_of_its_feature_level():
    rows = [[b"map", "map", 7, 300, 0, 0], *([b"%03d" % at, bytes(at)] for at in range(300))]
    rows += [[b"queue", "queue", 2, 2, 9, 5], [b"a", b"x", -1, 3], [b"b", b"y", 4, 4]]
    rows += [[b"set", "set", 1, 1, 0, 0], [b"one"], [b"vec", "vec", 3, 2, 0, 0], [b"v"], [b"w"]]
    machine = CollectionsMachine()
    machine.restore(rows)
    data = b"".join(frame(5, item) for item in machine.freeze().items())

    assert sha256(data).hexdigest() == "48e8582bef04d5636f47109b8224bf4db6eb8c627c0b8be6e2d918cfe4028487"
