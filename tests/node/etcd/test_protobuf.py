"""The codec against another implementation (google.protobuf), and against bytes that are no message."""

import random
from enum import IntEnum
from typing import Any, Final

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from node.etcd import auth_messages, messages
from node.etcd.messages import (
    Compare,
    Message,
    PutRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    WatchCreateRequest,
    WatchRequest,
)
from node.etcd.protobuf import DEPTH_MAX, ProtobufError, decode_untrusted, encode, fields_of

ALL: Final = tuple(
    {
        name: one
        for module in (messages, auth_messages)
        for name, one in vars(module).items()
        if isinstance(one, type) and issubclass(one, Message) and one is not Message
    }.values()
)
_TYPES: Final = {
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "uint64": descriptor_pb2.FieldDescriptorProto.TYPE_UINT64,
    "uint32": descriptor_pb2.FieldDescriptorProto.TYPE_UINT32,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
}
_NUMBERS: Final = (0, 1, 2, 127, 128, 300, 2**31 - 1, 2**31, 2**32, 2**63 - 1)


def _peers() -> dict[str, Any]:
    """Return the other implementation's class of each message, made from the same table."""
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    enums: set[type[IntEnum]] = set()
    for cls in ALL:
        described = file.message_type.add(name=cls.__name__)
        for one in fields_of(cls):
            kind: Any = one.kind
            field = described.field.add(name=one.name, number=one.number)
            field.label = field.LABEL_REPEATED if one.repeated else field.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type = _TYPES[kind]
            elif issubclass(kind, Message):
                field.type, field.type_name = field.TYPE_MESSAGE, f".t.{kind.__name__}"
            else:
                enums.add(kind)
                field.type, field.type_name = field.TYPE_ENUM, f".t.{kind.__name__}"
            if one.oneof:
                if not described.oneof_decl:
                    described.oneof_decl.add(name="alternatives")
                field.oneof_index = 0
    for kind in enums:
        listed = file.enum_type.add(name=kind.__name__)
        for value in kind:
            listed.value.add(name=f"{kind.__name__}_{value.name}", number=value.value)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = message_factory.GetMessageClassesForFiles(["t.proto"], pool)
    return {name.removeprefix("t."): cls for name, cls in found.items()}


PEERS: Final = _peers()


def _value(rng: random.Random, kind: Any, depth: int) -> Any:
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "bytes":
        return rng.randbytes(rng.choice((0, 1, 5, 127, 128, 300)))
    if kind == "string":
        return "".join(rng.choice("aé☃😀") for _ in range(rng.choice((0, 1, 50))))
    if kind == "uint64":
        return rng.choice((*_NUMBERS, 2**64 - 1))
    if kind == "uint32":
        return rng.choice((0, 1, 2**32 - 1))
    if kind == "int64":
        return rng.choice(_NUMBERS) * rng.choice((1, -1))
    if issubclass(kind, Message):
        return random_message(rng, kind, depth + 1)
    return rng.choice((0, 1, 2, 7, -1, 2**31 - 1))


def random_message(rng: random.Random, cls: type[Message], depth: int = 0) -> Message:
    """Return a message with some of its fields."""
    values: dict[str, Any] = {}
    taken = False
    for one in fields_of(cls):
        is_message = isinstance(one.kind, type) and issubclass(one.kind, Message)
        if (one.oneof and taken) or (is_message and depth > 3) or rng.random() < 0.4:
            continue
        taken = taken or bool(one.oneof)
        if one.repeated:
            values[one.name] = [_value(rng, one.kind, depth) for _ in range(rng.choice((0, 1, 3)))]
        else:
            values[one.name] = _value(rng, one.kind, depth)
    return cls(**values)


@pytest.mark.parametrize("cls", ALL, ids=lambda one: one.__name__)
def test_both_implementations_read_what_either_writes(cls: type[Message]) -> None:
    rng = random.Random(cls.__name__)
    for _ in range(20):
        message = random_message(rng, cls)
        encoded = encode(message)
        peer = PEERS[cls.__name__]()
        peer.MergeFromString(encoded)
        assert peer.SerializeToString(deterministic=True) == encoded
        assert decode_untrusted(cls, encoded) == message


def test_a_message_that_comes_in_pieces_is_merged_and_a_oneof_keeps_its_last_alternative() -> None:
    rng = random.Random(7)
    for cls in (TxnRequest, Compare, RequestOp, WatchRequest, WatchCreateRequest, RangeResponse, PutRequest):
        for _ in range(200):
            pieces = b"".join(encode(random_message(rng, cls)) for _ in range(3))
            peer = PEERS[cls.__name__]()
            peer.MergeFromString(pieces)
            mine = decode_untrusted(cls, pieces)
            assert encode(mine) == peer.SerializeToString(deterministic=True)


def test_damaged_bytes_are_refused_where_the_other_implementation_refuses_them() -> None:
    """Both agree on what is a message, and on what is in it."""
    rng = random.Random(11)
    refused = 0
    for _ in range(6000):
        cls = rng.choice((TxnRequest, WatchRequest, RangeResponse, PutRequest, messages.MemberListResponse))
        data = bytearray(encode(random_message(rng, cls)))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data) + 1)
            match rng.randrange(3):
                case 0:
                    data[at:at] = rng.randbytes(rng.randint(1, 3))
                case 1 if at < len(data):
                    data[at] = rng.randrange(256)
                case _:
                    del data[at : at + rng.randint(1, 4)]
        damaged = bytes(data)
        peer = PEERS[cls.__name__]()
        try:
            peer.MergeFromString(damaged)
        except DecodeError:
            refused += 1
            with pytest.raises(ProtobufError):
                decode_untrusted(cls, damaged)
            continue
        peer.DiscardUnknownFields()
        assert encode(decode_untrusted(cls, damaged)) == peer.SerializeToString(deterministic=True)
    assert refused > 500


def test_packed_and_single_values_of_a_repeated_number_are_read_alike() -> None:
    single, packed = bytes((0x28, 1, 0x28, 0)), bytes((0x2A, 2, 1, 0))
    for data in (single, packed, single + packed):
        assert decode_untrusted(WatchCreateRequest, data).filters == [1, 0] * (len(data) // 4)


def test_unknown_fields_of_every_kind_are_skipped() -> None:
    known = encode(PutRequest(key=b"k", value=b"v"))
    group = bytes((0xA3, 0x06, 0x08, 1, 0xA4, 0x06))
    unknown = (
        bytes((0xA0, 0x06, 5)),
        bytes((0xA1, 0x06)) + bytes(8),
        bytes((0xA2, 0x06, 2)) + b"xx",
        bytes((0xA5, 0x06)) + bytes(4),
        group,
    )
    for one in unknown:
        assert decode_untrusted(PutRequest, one + known + one) == PutRequest(key=b"k", value=b"v")
        assert decode_untrusted(RequestOp, bytes((0x12, len(one))) + one) == RequestOp(
            request_put=PutRequest()
        )


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x0a\xff\xff\xff\xff\x0fk", "beyond the end"),
        (b"\x0a\x05k", "beyond the end"),
        (b"\x18" + b"\xff" * 10 + b"\x01", "more than ten bytes"),
        (b"\x18", "cut off"),
        (b"\x00\x01", "no number"),
        (b"\x0c", "does not exist"),
        (b"\xff\xff\xff\xff\xff\x01", "beyond 2"),
        (b"\xa3\x06\xac\x06", "another number"),
        (b"\xa5\x06\x00", "cut off"),
    ],
)
def test_bytes_that_lie_about_themselves_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(ProtobufError, match=why):
        decode_untrusted(RangeRequest, data)


def test_nesting_and_the_number_of_fields_are_bounded() -> None:
    nested = TxnRequest()
    for _ in range(DEPTH_MAX // 2):
        nested = TxnRequest(success=[RequestOp(request_txn=nested)])
    assert decode_untrusted(TxnRequest, encode(nested)) == nested
    with pytest.raises(ProtobufError, match="nested too deeply"):
        decode_untrusted(TxnRequest, encode(TxnRequest(success=[RequestOp(request_txn=nested)])))
    groups = b"\xa3\x06" * 100_000
    with pytest.raises(ProtobufError, match="nested too deeply"):
        decode_untrusted(TxnRequest, groups)
    many = b"\x18\x01" * 10
    assert decode_untrusted(RangeRequest, many, items_max=10).limit == 1
    for one in (b"\x18\x01", b"\xa0\x06\x01"):
        with pytest.raises(ProtobufError, match="too many fields"):
            decode_untrusted(RangeRequest, many + one, items_max=10)
    with pytest.raises(ProtobufError, match="too many fields"):
        decode_untrusted(WatchCreateRequest, b"\x2a\x0a" + bytes(10), items_max=10)


def test_an_alternative_that_is_replaced_must_have_been_a_message() -> None:
    broken = bytes.fromhex("1a041a040a02")
    with pytest.raises(ProtobufError):
        decode_untrusted(messages.ResponseOp, broken + bytes.fromhex("0a021802"))


def test_each_piece_of_a_message_must_be_a_message() -> None:
    """Here they are none by themselves, and one together."""
    pieces = bytes.fromhex("0a01100a0105")
    with pytest.raises(ProtobufError):
        decode_untrusted(messages.MemberRemoveResponse, pieces)
