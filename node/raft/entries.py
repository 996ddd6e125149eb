"""Log entries: their chain, and the payload of each kind.

Payloads are deterministic CBOR arrays:

    CONFIG    [epoch, [[name, id]...], tie index or null, reason, genesis or null]
                  genesis: [nonce, [signature...], [level, machine family, machine version]]
              from level 2 on, if members were removed, and then one field more: [[name, id]...]
    COMMAND   [session, seq, ack_below, [key, not_after_ms] or null, credential or null, [command...]]
    SYSTEM    as COMMAND
    SESSION   ["open" | "keepalive" | "close", session, owner id, base_ms]
    FEATURE   [level]
    MACHINE   [version]
    SNAPSHOT  see ``node.sync.evidence``
    NOOP, DISSOLVE   []
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

from attestation.encoding.canonical import DEPTH_MAX, decode_each_untrusted, decode_untrusted, digest, encode
from attestation.errors import MalformedError
from node.errors import RemoteProtocolError
from node.features import Levels, is_number, levels_untrusted
from node.peers import Incarnation
from node.raft.quorum import REMOVED_MAX, Config
from node.raft.succession import Predecessor, predecessor_untrusted
from node.raft.types import LOG_START, CommandBatch, Entry, EntryKind, Key, Position
from node.sync.evidence import decode_snapshot_untrusted

_COMMAND: Final = EntryKind.COMMAND
_SYSTEM: Final = EntryKind.SYSTEM
EMPTY_PAYLOAD: Final = encode([])
ENTRY_BYTES_MAX: Final = 2 * 1024 * 1024 + 64 * 1024  # the largest command_bytes_max, and its overhead
NAME_CHARS_MAX: Final = 128
VOTERS_MAX: Final = 64
REMOVED_LEVEL: Final = 2  # the lowest level at which a Cfg names any
KEY_BYTES_MAX: Final = 256
CREDENTIAL_BYTES_MAX: Final = 32
SESSION_ID_BYTES: Final = 16
_BATCH_ITEMS: Final = 6
INTEGER_MAX: Final = 2**63 - 1
_ITEM_BYTES: Final = 8
_CONFIGS_KEPT: Final = 8  # each in the encoding in which it came, of up to ENTRY_BYTES_MAX

# The entry kinds of this release, each with the lowest level at which it may be written.
ENTRY_LEVELS: Final[dict[EntryKind, int]] = {
    EntryKind.NOOP: 1,
    EntryKind.CONFIG: 1,
    EntryKind.COMMAND: 1,
    EntryKind.SESSION: 1,
    EntryKind.DISSOLVE: 1,
    EntryKind.SYSTEM: 1,
    EntryKind.FEATURE: 1,
    EntryKind.MACHINE: 1,
    EntryKind.SNAPSHOT: 2,
}


# ---- chain ------------------------------------------------------------------
# chain = digest("bondstone/entry/v1", previous chain, term, index, kind, time_ms, payload). Every entry of
# every log is hashed here, so its deterministic CBOR (RFC 8949 3.1, 4.2.1) is assembled by hand.
_CHAIN_START: Final = b"\x87" + encode("bondstone/entry/v1") + b"\x58\x20"


def make_entry(previous: Position, *, term: int, kind: EntryKind, time_ms: int, payload: bytes) -> Entry:
    """Return the entry that follows ``previous``; its chain covers the whole log up to it."""
    return make_entries(previous, [(term, kind, time_ms, payload)])[0]


def make_entries(previous: Position, parts: Iterable[tuple[int, EntryKind, int, bytes]]) -> tuple[Entry, ...]:
    """Return the entries of these terms, kinds, times and payloads that follow ``previous``, chained."""
    index, chain = previous.index, previous.chain
    made = []
    for term, kind, time_ms, payload in parts:
        index += 1
        encoded = (
            _CHAIN_START,
            chain,
            _head(term),
            _head_once(index),
            _SMALL[kind],
            _head(time_ms),
            _bytes_head(len(payload)),
            payload,
        )
        chain = sha256(b"".join(encoded)).digest()
        made.append(Entry(term, index, kind, time_ms, payload, chain))
    return tuple(made)


_SMALL: Final = tuple(bytes((number,)) for number in range(24))
_INDEX_2: Final = struct.Struct(">BH").pack
_INDEX_4: Final = struct.Struct(">BI").pack
_INDEX_8: Final = struct.Struct(">BQ").pack


def _head_once(number: int) -> bytes:
    """Return the deterministic CBOR of an unsigned integer that does not recur."""
    if number < 24:
        return _SMALL[number]
    if number < 0x100:
        return bytes((0x18, number))
    if number < 0x10000:
        return _INDEX_2(0x19, number)
    return _INDEX_4(0x1A, number) if number < 1 << 32 else _INDEX_8(0x1B, number)


def _head_bytes(number: int) -> int:
    """Return how many bytes ``_head_once`` returns for a number."""
    if number < 24:
        return 1
    if number < 0x100:
        return 2
    if number < 0x10000:
        return 3
    return 5 if number < 1 << 32 else 9


@lru_cache(maxsize=4096)
def _head(number: int) -> bytes:
    """Return the deterministic CBOR of an unsigned integer that recurs often, like a term or a time."""
    return encode(number)


@lru_cache(maxsize=4096)
def _bytes_head(size: int) -> bytes:
    """Return what precedes ``size`` bytes in deterministic CBOR: as for an integer, but of major type 2."""
    head = encode(size)
    return bytes((head[0] | 0x40,)) + head[1:]


# ---- configurations ---------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Signatures:
    """The signatures of a genesis: every founder signs all of it, and they are in the order of the voters.

    Attributes:
        nonce: 16 bytes that no other genesis has.
        levels: the levels at which the group begins.
        predecessor: in the genesis of a survivor's generation.
    """

    nonce: bytes
    signatures: tuple[bytes, ...]
    levels: Levels
    predecessor: Predecessor | None = None


def genesis_digest(
    group_id: bytes,
    nonce: bytes,
    voters: tuple[Incarnation, ...],
    levels: Levels,
    predecessor: Predecessor | None = None,
) -> bytes:
    """Return what every founder signs: 32 bytes."""
    names = [[v.name, v.id] for v in voters]
    if predecessor is None:
        return digest("bondstone/genesis/v2", group_id, nonce, names, levels.encode())
    before = predecessor.to_value()
    return digest("bondstone/succession/v1", group_id, nonce, names, levels.encode(), before)


def encode_config(config: Config, signatures: Signatures | None = None) -> bytes:
    tie = None if config.tie is None else config.voters.index(config.tie)
    founding = None
    if signatures is not None:
        founding = [signatures.nonce, list(signatures.signatures), signatures.levels.encode()]
        if signatures.predecessor is not None:  # of feature level 2
            founding.append(signatures.predecessor.to_value())
    voters = [[voter.name, voter.id] for voter in config.voters]
    fields: list[object] = [config.epoch, voters, tie, config.reason, founding]
    if config.removed:  # of feature level 2
        fields.append([[one.name, one.id] for one in config.removed])
    return encode(fields)


@lru_cache(maxsize=_CONFIGS_KEPT)
def decode_config_untrusted(payload: bytes) -> tuple[Config, Signatures | None]:
    """Return the configuration and, in a genesis, its signatures.

    Callers ask for each payload several times, so results are cached.

    Raises:
        RemoteProtocolError: the payload is not a configuration.
    """
    match _plain_untrusted(payload):
        case [
            int(epoch),
            [*raw_voters],
            tie,
            str(reason),
            founding,
            *further,
        ] if len(reason) <= 256 and 1 <= len(raw_voters) <= VOTERS_MAX and len(further) <= 1:
            voters = tuple(incarnation_untrusted(raw) for raw in raw_voters)
            if list(voters) != sorted(set(voters)):
                raise RemoteProtocolError("bad-config", "voters are not sorted and distinct")
            if tie is not None and (type(tie) is not int or not 0 <= tie < len(voters)):
                raise RemoteProtocolError("bad-config", "the tie-break is not a voter")
            if isinstance(epoch, bool) or not 1 <= epoch <= INTEGER_MAX:
                raise RemoteProtocolError("bad-config", "epoch out of range")
            config = Config(
                epoch=epoch,
                voters=voters,
                tie=None if tie is None else voters[tie],
                reason=reason,
                removed=_removed_untrusted(further[0], voters) if further else (),
            )
            return config, _signatures_untrusted(founding, len(voters))
        case _:
            raise RemoteProtocolError("bad-config", "the payload is not a configuration")


def genesis_start(payload: bytes) -> Position:
    """Return the position that the genesis with this payload follows.

    Raises:
        RemoteProtocolError: it is the payload of no genesis.
    """
    _, founding = decode_config_untrusted(payload)
    if founding is None:
        raise RemoteProtocolError("bad-config", "a configuration that is no genesis")
    return LOG_START if founding.predecessor is None else founding.predecessor.start


def _removed_untrusted(value: Any, voters: tuple[Incarnation, ...]) -> tuple[Incarnation, ...]:
    if type(value) is not list or not 1 <= len(value) <= REMOVED_MAX:
        raise RemoteProtocolError("bad-config", "the removed members are no list, or too many")
    removed = tuple(incarnation_untrusted(raw) for raw in value)
    if len(set(removed)) < len(removed) or not set(removed).isdisjoint(voters):
        raise RemoteProtocolError("bad-config", "a removed member is there twice, or is a voter")
    return removed


def _signatures_untrusted(founding: Any, count: int) -> Signatures | None:
    match founding:
        case None:
            return None
        case [bytes(nonce), [*signatures], levels, *further] if (
            len(nonce) == 16
            and len(signatures) == count
            and all(isinstance(s, bytes) and len(s) <= 1024 for s in signatures)
            and len(further) <= 1
        ):
            return Signatures(
                nonce=nonce,
                signatures=tuple(signatures),
                levels=levels_untrusted(levels),
                predecessor=predecessor_untrusted(further[0]) if further else None,
            )
        case _:
            raise RemoteProtocolError("bad-config", "the genesis signatures are malformed")


def incarnation_untrusted(value: Any) -> Incarnation:
    """Return the incarnation that ``[name, id]`` names.

    Raises:
        RemoteProtocolError: it names no incarnation.
    """
    match value:
        case [str(name), bytes(identity)] if 1 <= len(name) <= NAME_CHARS_MAX and len(identity) == 32:
            return Incarnation(name, identity)
        case _:
            raise RemoteProtocolError("bad-incarnation", "not a name and a 32-byte id")


# ---- commands and sessions --------------------------------------------------
_COMMAND_START: Final = b"\x86" + bytes((0x40 | SESSION_ID_BYTES,))  # an array of six, a session's id
_NULL: Final = encode(None)
# The parts before the caller in an entry with a key, without its numbers and the key's name.
_KEYED_BYTES: Final = len(_COMMAND_START) + SESSION_ID_BYTES + 1


def encode_command_body(commands: tuple[object, ...], credential: bytes | None = None) -> bytes:
    """Return the part of a COMMAND payload that is the same every time it is handed to a leader."""
    return (_NULL if credential is None else encode(credential)) + encode(list(commands))


def encode_commands(session: bytes, seq: int, ack_below: int, key: Key | None, body: bytes) -> bytes:
    """Return the payload of a COMMAND or SYSTEM entry; ``body`` is from ``encode_command_body``."""
    encoded_key = _NULL if key is None else _encode_key(key)
    return payload_prefix(session, seq) + _head_once(ack_below) + encoded_key + body


def _encode_key(key: Key) -> bytes:
    return b"\x82" + _bytes_head(len(key.name)) + key.name + _head_once(key.not_after_ms)


def decode_commands_untrusted(entries: Sequence[Entry]) -> list[CommandBatch | None]:
    """Return the batch in each of these COMMAND and SYSTEM entries, None where the payload holds no batch."""
    values = decode_each_untrusted([entry.payload for entry in entries], bytes_max=ENTRY_BYTES_MAX)
    return list(map(_batch_untrusted, values, entries))


def commands_of_untrusted(payload: bytes) -> tuple[Any, ...]:
    """Return the commands in the payload of a COMMAND entry; none if it holds no batch."""
    (value,) = decode_each_untrusted([payload], bytes_max=ENTRY_BYTES_MAX)
    holds = type(value) is list and len(value) == _BATCH_ITEMS and type(value[-1]) is list
    return tuple(value[-1]) if holds else ()


def _batch_untrusted(value: Any, entry: Entry) -> CommandBatch | None:
    if type(value) is list and len(value) == _BATCH_ITEMS:
        session, seq, ack_below, key, credential, commands = value
        if (
            type(session) is bytes
            and len(session) == SESSION_ID_BYTES
            and type(seq) is int
            and 1 <= seq <= INTEGER_MAX
            and type(ack_below) is int
            and 0 <= ack_below <= seq
            and (key is None or (type(key) is list and len(key) == 2 and _is_key(*key)))
            and (credential is None or is_credential(credential))
            and type(commands) is list
            and commands
        ):
            system = entry.kind is _SYSTEM
            if key is None:
                return CommandBatch(session, seq, ack_below, None, tuple(commands), b"", credential, system)
            name, not_after_ms = key
            heads = (
                _head_bytes(seq) + _head_bytes(ack_below) + _head_bytes(len(name)) + _head_bytes(not_after_ms)
            )
            # No CBOR head is shorter than its deterministic form. So in any other encoding too, this holds
            # caller and commands.
            keyed = entry.payload[_KEYED_BYTES + heads + len(name) :]
            return CommandBatch(
                session, seq, ack_below, Key(name, not_after_ms), tuple(commands), keyed, credential, system
            )
    return None


def is_credential(value: object) -> bool:
    """Return whether ``value`` can name a caller: 1 to ``CREDENTIAL_BYTES_MAX`` bytes."""
    return type(value) is bytes and 1 <= len(value) <= CREDENTIAL_BYTES_MAX


def counts_as_command(entry: Entry) -> bool:
    """Return whether a caller may have asked for this: a cluster with such an entry must not be given up.

    Facts that a member itself writes into the system state do not count: it can find them again in another
    cluster.
    """
    if entry.kind is not _SYSTEM:
        return entry.kind is _COMMAND
    try:
        value = decode_untrusted(entry.payload, bytes_max=ENTRY_BYTES_MAX, items_max=ENTRY_BYTES_MAX)
    except MalformedError:
        return False  # a no-op
    return type(value) is list and len(value) == 6 and value[4] is not None


def _is_key(name: Any, not_after_ms: Any) -> bool:
    """Return whether these are a key's name and the time up to which it counts."""
    return (
        type(name) is bytes
        and 1 <= len(name) <= KEY_BYTES_MAX
        and type(not_after_ms) is int
        and 0 <= not_after_ms <= INTEGER_MAX
    )


def payload_prefix(session: bytes, seq: int) -> bytes:
    """Return how the payload of a COMMAND or SYSTEM entry of this session and sequence number begins.

    A leader compares this prefix, instead of decoding what peers forward, so that no peer can write into the
    session of another.
    """
    return _COMMAND_START + session + _head_once(seq)


@dataclass(frozen=True, slots=True)
class SessionChange:
    """A session is opened, kept alive or closed.

    Attributes:
        operation: ``open``, ``keepalive`` or ``close``.
        owner: an incarnation's id.
        base_ms: with ``open``: time_ms of the last entry that the owner had applied. An open that comes
            later than the TTL after it is void, so a late copy can never revive an expired session.
    """

    operation: str
    session: bytes
    owner: bytes
    base_ms: int


def encode_session(change: SessionChange) -> bytes:
    return encode([change.operation, change.session, change.owner, change.base_ms])


def decode_session_untrusted(payload: bytes) -> SessionChange:
    """Return the change in the payload of a SESSION entry.

    Raises:
        RemoteProtocolError: the payload holds no change.
    """
    match _plain_untrusted(payload):
        case [
            "open" | "keepalive" | "close" as operation,
            bytes(session),
            bytes(owner),
            int(base_ms),
        ] if len(session) == SESSION_ID_BYTES and len(owner) == 32 and 0 <= base_ms <= INTEGER_MAX:
            return SessionChange(operation, session, owner, base_ms)
        case _:
            raise RemoteProtocolError("bad-session", "the payload is not a session change")


def encode_number(number: int) -> bytes:
    """Return the payload of a FEATURE or MACHINE entry."""
    return encode([number])


def decode_number_untrusted(payload: bytes) -> int:
    """Return the level in the payload of a FEATURE entry, or the version in that of a MACHINE entry.

    Raises:
        RemoteProtocolError: the payload holds no number.
    """
    match _plain_untrusted(payload):
        case [number] if is_number(number):
            return int(number)
        case _:
            raise RemoteProtocolError("bad-entry", "the payload is not a level or a version")


def is_open(payload: bytes) -> bool:
    """Return whether the payload of a SESSION entry opens a session."""
    return decode_session_untrusted(payload).operation == "open"


def session_id(group_id: bytes, owner: bytes, number: int) -> bytes:
    """Return the id of the ``number``-th session that incarnation ``owner`` opens."""
    return digest("bondstone/session/v1", group_id, owner, number)[:SESSION_ID_BYTES]


def is_plain(value: object, depth: int = 4) -> bool:
    """Return whether every node can decode ``value`` again: null, bool, int, str, bytes, list, dict.

    ``depth`` starts at the nesting of commands within their entry.
    """
    if isinstance(value, str):
        return value.isascii() or _is_text(value)
    if value is None or isinstance(value, bool | int | bytes):
        return True
    if depth >= DEPTH_MAX:
        return False
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not (key.isascii() or _is_text(key)):
                return False
            # Nearly all values are plain text, and every command is checked here.
            if not (type(item) is str and item.isascii()) and not is_plain(item, depth + 1):
                return False
        return True
    return isinstance(value, list | tuple) and all(is_plain(item, depth + 1) for item in value)


class NotPlainError(ValueError):
    """A machine returned something that is not plain data."""


def plain_bytes(value: Any, depth: int = 0) -> int:
    """Return about how many bytes plain data takes; the same on every node.

    Raises:
        NotPlainError: it is not plain data: a result that cannot be kept cannot be returned a second time.
    """
    kind = type(value)
    size = _ITEM_BYTES
    if kind is str:
        if not (value.isascii() or _is_text(value)):
            raise NotPlainError("a lone surrogate")
        size += len(value)
    elif kind is bytes:
        size += len(value)
    elif kind is int:
        size += value.bit_length() // 8
    elif depth < DEPTH_MAX and kind is dict:
        for key, item in value.items():
            # Every result passes here, so the most common types are handled without a call.
            if type(key) is not str:
                raise NotPlainError("a map key that is not text")
            size += _ITEM_BYTES + len(key) if key.isascii() else plain_bytes(key, depth + 1)
            size += (
                _ITEM_BYTES + item.bit_length() // 8 if type(item) is int else plain_bytes(item, depth + 1)
            )
    elif depth < DEPTH_MAX and (kind is list or kind is tuple):
        for item in value:
            size += plain_bytes(item, depth + 1)
    elif value is not None and kind is not bool:
        raise NotPlainError(kind.__name__ if depth < DEPTH_MAX else "too deep")
    return size


def _is_text(value: str) -> bool:
    """Return whether ``value`` has an encoding: a lone surrogate has no encoding."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_payload_untrusted(kind: EntryKind, payload: bytes) -> None:
    """Check the payload of a foreign entry, except COMMAND and SYSTEM: those are judged when applied.

    Raises:
        RemoteProtocolError: it is malformed, or of a kind that this release does not know.
    """
    match kind:
        case EntryKind.CONFIG:
            decode_config_untrusted(payload)
        case EntryKind.SESSION:
            decode_session_untrusted(payload)
        case EntryKind.FEATURE | EntryKind.MACHINE:
            decode_number_untrusted(payload)
        case EntryKind.NOOP | EntryKind.DISSOLVE:
            if payload != EMPTY_PAYLOAD:
                raise RemoteProtocolError("bad-entry", f"{kind.name} with a payload")
        case EntryKind.COMMAND | EntryKind.SYSTEM:
            pass
        case EntryKind.SNAPSHOT:
            decode_snapshot_untrusted(payload)
        case EntryKind.POLICY:
            raise RemoteProtocolError("bad-entry", f"{kind.name} entries are not known here")


def _plain_untrusted(payload: bytes) -> Any:
    try:
        return decode_untrusted(payload, bytes_max=ENTRY_BYTES_MAX, items_max=ENTRY_BYTES_MAX)
    except MalformedError as exc:
        raise RemoteProtocolError("bad-payload", str(exc)) from exc
