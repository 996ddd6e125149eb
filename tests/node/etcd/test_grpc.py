"""gRPC over HTTP/2 as another implementation (grpcio, C-core) sees it."""

import threading
import time

import grpc
import pytest

from node.etcd.errors import EtcdError
from node.etcd.grpc import timeout_s_of
from node.etcd.messages import (
    Compare,
    DeleteRangeRequest,
    HealthCheckRequest,
    LeaseKeepAliveRequest,
    PutRequest,
    RangeRequest,
    ServingStatus,
    SnapshotRequest,
    TxnRequest,
    WatchCancelRequest,
    WatchCreateRequest,
    WatchRequest,
)
from node.system.grants import AccessRole
from tests.node.api.fakes import FakeService
from tests.node.etcd.fakes import channel_to, grpc_server, stub, token

READ, WRITE = token(AccessRole.READ), token(AccessRole.WRITE)


@pytest.fixture(scope="module")
def server():
    with grpc_server() as made:
        yield made


@pytest.fixture
def channel(server):
    with channel_to(server.port) as made:
        yield made


def refusal(call, *args, **more):
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, timeout=more.pop("timeout", 30), **more)
    return caught.value.code(), caught.value.details()


def until(holds):
    """Wait until something that must happen has happened; the test's own time limit ends it otherwise."""
    while not holds():
        time.sleep(0.005)


def test_a_call_has_its_answer_and_several_at_once_have_theirs(channel):
    ask = stub(channel, "Range")
    pending = [ask.future(RangeRequest(key=b"k%d" % number), metadata=READ) for number in range(50)]
    assert [one.result().kvs[0].key for one in pending] == [b"k%d" % number for number in range(50)]


def test_a_large_message_goes_both_ways(channel):
    key = bytes(range(256)) * 5600  # 1.4 MiB
    answer = stub(channel, "Range")(RangeRequest(key=key, limit=1_000_000), metadata=READ)
    assert answer.kvs[0].key == key
    assert len(answer.kvs[0].value) == 1_000_000


def test_one_04_unknown_services_and_methods_are_unimplemented_in_grpcs_words(channel):
    def call(path):
        return channel.unary_unary(path)

    assert refusal(call("/etcdserverpb.Nobody/Range"), b"") == (
        grpc.StatusCode.UNIMPLEMENTED,
        "unknown service etcdserverpb.Nobody",
    )
    assert refusal(call("/etcdserverpb.KV/RangeStream"), b"") == (
        grpc.StatusCode.UNIMPLEMENTED,
        "unknown method RangeStream for service etcdserverpb.KV",
    )


def test_one_05_a_body_that_is_no_protobuf_is_internal(channel):
    code, _ = refusal(channel.unary_unary("/etcdserverpb.KV/Range"), b"\x0a\xff", metadata=READ)
    assert code is grpc.StatusCode.INTERNAL


def test_one_06_a_message_over_2_mib_is_refused_and_the_connection_lives_on(channel):
    ask = stub(channel, "Range")
    size = 2 * 1024 * 1024 + 5
    assert refusal(channel.unary_unary("/etcdserverpb.KV/Range"), bytes(size), metadata=READ) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"grpc: received message larger than max ({size} vs. 2097152)",
    )
    assert ask(RangeRequest(key=b"after"), metadata=READ).count == 1


def test_one_07_a_compressed_message_is_refused_by_the_name_of_its_encoding(channel):
    call = channel.unary_unary("/etcdserverpb.KV/Range")
    code, details = refusal(call, b"\0" * 10_000, metadata=READ, compression=grpc.Compression.Gzip)
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "gzip" in details


def test_one_08_a_call_ends_when_its_time_is_over_and_frees_its_handler(server, channel):
    code, _ = refusal(stub(channel, "Put"), PutRequest(key=b"k"), metadata=WRITE, timeout=0.2)
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    until(lambda: server.kv.waiting == 0)
    until(lambda: server.door.calls.taken == 0)
    assert server.kv.cancelled > 0


def test_one_08_the_service_is_given_the_deadline(server, channel):
    stub(channel, "Range")(RangeRequest(key=b"k"), metadata=READ, timeout=30)
    assert server.kv.calls[-1].deadline is not None
    stub(channel, "Range")(RangeRequest(key=b"k"), metadata=READ)
    assert server.kv.calls[-1].deadline is None


def test_one_09_the_words_of_a_refusal_arrive_as_they_are(channel):
    assert refusal(stub(channel, "Range"), RangeRequest(key=b"refuse"), metadata=READ) == (
        grpc.StatusCode.OUT_OF_RANGE,
        "etcdserver: mvcc: 100 % \u2603 compacted",
    )


def test_a_bug_of_a_service_is_internal_and_shows_nothing_of_itself(channel):
    code, details = refusal(stub(channel, "Txn"), TxnRequest(compare=[Compare()]), metadata=WRITE)
    assert code is grpc.StatusCode.INTERNAL
    assert "Zero" not in details


@pytest.mark.parametrize("name", ["token", "authorization"])
def test_one_12_a_token_comes_in_either_field_bare_or_as_a_bearer(channel, name):
    ask = stub(channel, "Range")
    (bare,) = token(AccessRole.READ, name)
    assert ask(RangeRequest(key=b"k"), metadata=(bare,)).count == 1
    assert ask(RangeRequest(key=b"k"), metadata=((name, f"Bearer {bare[1]}"),)).count == 1


def test_one_12_other_metadata_reaches_the_service(server, channel):
    stub(channel, "Range")(RangeRequest(), metadata=(*READ, ("hasleader", "true"), ("x-other", "1")))
    assert server.kv.calls[-1].metadata["hasleader"] == "true"


def test_aut_02_who_is_not_known_or_may_not_is_refused_in_etcds_words(channel):
    ask = stub(channel, "Range")
    assert refusal(ask, RangeRequest()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "etcdserver: user name is empty",
    )
    assert refusal(ask, RangeRequest(), metadata=(("token", "bst_nobody"),)) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "etcdserver: invalid auth token",
    )
    assert refusal(stub(channel, "DeleteRange"), DeleteRangeRequest(), metadata=READ) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "etcdserver: permission denied",
    )


def test_jsn_08_a_write_with_an_idempotency_key_has_one_of_the_caller(server, channel):
    delete = stub(channel, "DeleteRange")
    read = stub(channel, "Range")
    assert delete(DeleteRangeRequest(key=b"ab"), metadata=(*WRITE, ("idempotency-key", "one"))).deleted == 2
    read(RangeRequest(), metadata=(*READ, ("idempotency-key", "one")))
    assert server.kv.calls[-1].idempotency_key is None  # a read has none


def test_a_stream_in_both_directions_answers_each_request_and_ends_with_it(server, channel):
    before = server.streams.ended

    def requests():
        for number in range(100):
            yield WatchRequest(create_request=WatchCreateRequest(watch_id=number))

    answers = stub(channel, "Watch", "stream_stream")(requests(), metadata=READ)
    assert [answer.watch_id for answer in answers] == list(range(100))
    until(lambda: server.streams.ended == before + 1)


def test_a_stream_that_is_refused_midway_ends_with_its_reason(channel):
    def requests():
        yield WatchRequest(create_request=WatchCreateRequest())
        yield WatchRequest(cancel_request=WatchCancelRequest())
        threading.Event().wait(0.1)

    answers = stub(channel, "Watch", "stream_stream")(requests(), metadata=READ)
    assert next(answers).created
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.CANCELLED, "watch canceled")


def test_a_stream_of_answers_waits_for_a_client_that_does_not_read(server, channel):
    """And goes on when it does, with every piece."""
    server.streams.sent = 0
    answers = stub(channel, "Snapshot", "unary_stream")(SnapshotRequest(), metadata=READ)
    first = next(answers)
    assert first.remaining_bytes == 999
    assert [answer.remaining_bytes for answer in answers] == list(range(998, -1, -1))


def test_a_client_that_takes_its_call_back_frees_the_handler(server, channel):
    before = server.streams.ended
    requests = iter([LeaseKeepAliveRequest(ID=1)])
    answers = stub(channel, "LeaseKeepAlive", "stream_stream")(requests, metadata=WRITE)
    until(lambda: server.door.calls.taken == 1)
    until(lambda: server.door.calls.usage.known == 1)
    answers.cancel()
    until(lambda: server.door.calls.taken == 0)
    until(lambda: server.streams.ended == before + 1)


def test_one_11_at_shutdown_a_running_call_gets_its_answer_and_a_stream_is_told_to_go_elsewhere():
    results = []
    with grpc_server() as server, channel_to(server.port) as channel:
        ended = threading.Event()

        def requests():
            yield WatchRequest(create_request=WatchCreateRequest())
            ended.wait()

        answers = stub(channel, "Watch", "stream_stream")(requests(), metadata=READ)
        assert next(answers).created
        put = stub(channel, "Put").future(PutRequest(key=b"k"), metadata=WRITE)
        until(lambda: server.kv.waiting == 1)

        def follow():
            with pytest.raises(grpc.RpcError) as caught:
                next(answers)
            results.append(caught.value.code())
            server.in_loop(server.kv.go_on.set)

        follower = threading.Thread(target=follow)
        follower.start()
        server.begin_to_stop()
        follower.join()
        ended.set()
        put.result()
    assert results == [grpc.StatusCode.UNAVAILABLE]


def test_the_health_service_answers_without_credentials():
    service = FakeService()
    with grpc_server(service) as server, channel_to(server.port) as channel:
        check = stub(channel, "Check")
        assert check(HealthCheckRequest()).status == ServingStatus.SERVING
        assert check(HealthCheckRequest(service="etcdserverpb.KV")).status == ServingStatus.SERVING
        code, _ = refusal(check, HealthCheckRequest(service="nobody"))
        assert code is grpc.StatusCode.NOT_FOUND
        service.leader_known = False
        assert check(HealthCheckRequest()).status == ServingStatus.NOT_SERVING


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"99999999n", 0.099999999)],
)
def test_a_timeout_is_read_in_its_unit(value, seconds):
    assert timeout_s_of(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"1", b"S", b"123456789S", b"-1S", b"1.5S", b"1s"])
def test_a_timeout_of_another_form_is_refused(value):
    with pytest.raises(EtcdError, match="malformed"):
        timeout_s_of(value)
