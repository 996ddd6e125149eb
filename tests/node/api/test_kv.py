"""``/v1/kv``: keys are paths, values are bodies, and a condition is judged where the write is applied."""

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api.app import create_app
from node.api.kv import _bounds, _end_of_prefix, _key_of
from node.api.limits import KV_PAGE_MAX, ApiLimits
from node.api.problems import ProblemError
from node.machines.kv import VALUE_BYTES_MAX, KeyValue
from node.raft.types import AlreadyExecuted, Cursor, NotExecuted, Unknown
from node.system.grants import AccessRole
from tests.node.api.fakes import FakeService, call
from tests.node.api.kv_model import KvModel

READ, WRITE, ADMIN = AccessRole.READ, AccessRole.WRITE, AccessRole.ADMIN


@pytest.fixture(autouse=True, params=[KvModel, KeyValue], ids=["model", "machine"])
def machine(request):
    """Every test here holds for the machine, and for a model that shares no code with it."""
    MACHINE.append(request.param)
    yield
    MACHINE.pop()


MACHINE = []


def service(**more):
    return FakeService(machine=MACHINE[-1](), **more)


def path_of(key: bytes, query: str = "") -> str:
    return f"/v1/kv/{quote(key, safe='')}{query}"


def put(group, key, value=b"v", *, query="", **more):
    return call(group, "PUT", path_of(key, query), role=ADMIN, body=value, **more)


def get(group, key, query="", **more):
    return call(group, "GET", path_of(key, query), role=ADMIN, **more)


def delete(group, key, **more):
    return call(group, "DELETE", path_of(key), role=ADMIN, **more)


def page(group, query="", **more):
    return call(group, "GET", f"/v1/kv{query}", role=ADMIN, **more)


def keys(reply):
    return [base64.b64decode(item["key_b64"]) for item in reply.json["items"]]


# ---- one key ------------------------------------------------------------------------------
def test_a_value_comes_back_byte_for_byte_with_its_revision_as_the_etag():
    group, value = service(), bytes(range(256))
    written = put(group, b"a", value)
    reply = get(group, b"a")

    assert written.status == 200
    assert written.json == {"term": 3, "index": 1, "revision": 2}
    assert (reply.status, reply.body) == (200, value)
    assert reply.headers["etag"] == written.headers["etag"] == '"2"'
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["bondstone-revision"] == "2"
    assert reply.headers["bondstone-create-revision"] == "2"
    assert reply.headers["bondstone-version"] == "1"
    assert reply.headers["bondstone-lease"] == "0"
    assert reply.headers["cache-control"] == "no-store"


def test_an_empty_value_is_a_value():
    group = service()
    assert put(group, b"a", b"").status == 200
    reply = get(group, b"a")
    assert (reply.status, reply.body, reply.headers["content-length"]) == (200, b"", "0")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "x"])
def test_the_media_type_of_a_value_is_the_clients_own_affair(media_type):
    group = service()
    assert put(group, b"a", b"{}", headers=[("content-type", media_type)]).status == 200
    assert get(group, b"a").headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    "key",
    [b"a/b", b"/", b"//", b"..", b"a b+c", b"%", b"\0", b"\n", b"\xff\xfe", b"\xc3\xa9", b"{key}", b"?#"],
)
def test_every_key_of_bytes_has_a_path(key):
    group = service()
    assert put(group, key, key).status == 200
    assert keys(page(group)) == [key]
    assert get(group, key).body == key
    assert delete(group, key).json["deleted"] == 1


def test_a_slash_in_a_key_may_be_written_as_it_is():
    group = service()
    put(group, b"a/b", b"1")
    assert call(group, "GET", "/v1/kv/a/b", role=ADMIN).body == b"1"
    assert call(group, "GET", "/v1/kv/a%2fb", role=ADMIN).body == b"1"


def test_a_key_is_decoded_once():
    group = service()
    put(group, b"%61", b"1")
    assert call(group, "GET", "/v1/kv/%2561", role=ADMIN).body == b"1"
    assert get(group, b"a").status == 404


@pytest.mark.parametrize("path", ["/v1/kv/", "/v1/kv/a%", "/v1/kv/a%2", "/v1/kv/a%zz"])
def test_what_is_no_key_is_refused(path):
    for method in ("GET", "PUT", "DELETE"):
        reply = call(service(), method, path, role=ADMIN, body=b"")
        assert (reply.status, reply.json["code"]) == (422, "request-invalid")


def test_a_path_whose_own_words_are_encoded_writes_no_key():
    """A server that decoded it would take the key from another place."""
    with pytest.raises(ProblemError, match="as it is"):
        _key_of({"path": "/v1/kv/a", "raw_path": b"/%76%31/kv/a"})
    assert _key_of({"path": "/v1/kv/a", "raw_path": b"/v1/kv/a"}) == b"a"


def test_an_absent_key_is_404_and_its_deletion_deletes_nothing():
    group = service()
    reply = get(group, b"a")
    assert (reply.status, reply.json["code"], reply.json["revision"]) == (404, "key-not-found", 1)
    assert delete(group, b"a").json == {"term": 3, "index": 1, "revision": 1, "deleted": 0}


def test_an_old_revision_is_shown_as_it_was():
    group = service()
    put(group, b"a", b"1")
    put(group, b"a", b"2")
    assert get(group, b"a", "?revision=2").body == b"1"
    assert get(group, b"a", "?revision=2").headers["etag"] == '"2"'
    refused = get(group, b"a", "?revision=9")
    assert (refused.status, refused.json["code"], refused.json["reason"]) == (
        422,
        "query-failed",
        "revision-future",
    )


def test_head_has_the_head_of_get():
    group = service()
    put(group, b"a", b"1")
    assert call(group, "HEAD", "/v1/kv/a", role=ADMIN).headers["etag"] == '"2"'


def test_a_value_larger_than_a_body_is_refused():
    reply = put(service(), b"a", bytes(5000), limits=ApiLimits(body_bytes_max=4096))
    assert (reply.status, reply.json["code"]) == (413, "body-too-large")


# ---- conditions ---------------------------------------------------------------------------
def test_a_key_is_written_only_if_it_is_at_the_revision_of_the_etag():
    group = service()
    etag = put(group, b"a", b"1").headers["etag"]
    later = put(group, b"a", b"2", headers=[("if-match", etag)])
    lost = put(group, b"a", b"3", headers=[("if-match", etag)])

    assert (later.status, later.headers["etag"]) == (200, '"3"')
    assert (lost.status, lost.json["code"], lost.json["mod_revision"]) == (412, "precondition-failed", 3)
    assert lost.headers["etag"] == '"3"'
    assert get(group, b"a").body == b"2"


def test_a_key_is_created_only_if_there_is_none():
    group = service()
    condition = [("if-none-match", "*")]
    assert put(group, b"a", b"1", headers=condition).status == 200
    refused = put(group, b"a", b"2", headers=condition)
    assert (refused.status, refused.json["mod_revision"]) == (412, 2)
    assert get(group, b"a").body == b"1"


def test_a_key_is_replaced_only_if_there_is_one():
    group = service()
    condition = [("if-match", "*")]
    refused = put(group, b"a", b"1", headers=condition)
    assert (refused.status, refused.json["mod_revision"], "etag" in refused.headers) == (412, None, False)
    put(group, b"a", b"1")
    assert put(group, b"a", b"2", headers=condition).status == 200


def test_a_key_is_deleted_only_at_its_revision():
    group = service()
    put(group, b"a")
    assert delete(group, b"a", headers=[("if-match", '"7"')]).status == 412
    assert delete(group, b"a", headers=[("if-match", '"2"')]).json["deleted"] == 1


@pytest.mark.parametrize(
    "headers",
    [
        [("if-match", "2")],
        [("if-match", 'W/"2"')],
        [("if-match", '"2", "3"')],
        [("if-match", '"x"')],
        [("if-match", '"99999999999999999999"')],
        [("if-match", '"9999999999999999999"')],
        [("if-match", "")],
        [("if-none-match", '"2"')],
        [("if-match", "*"), ("if-none-match", "*")],
        [("if-match", "*"), ("if-match", "*")],
    ],
)
def test_a_condition_that_is_not_understood_is_never_ignored(headers):
    group = service()
    for reply in (put(group, b"a", headers=headers), delete(group, b"a", headers=headers)):
        assert (reply.status, reply.json["code"]) == (422, "request-invalid")
    assert group.executed == []


def test_a_deletion_takes_no_condition_that_the_key_is_absent():
    assert delete(service(), b"a", headers=[("if-none-match", "*")]).status == 422


# ---- ranges -------------------------------------------------------------------------------
@pytest.fixture
def filled():
    group = service()
    for key in (b"a", b"b", b"b/1", b"b/2", b"b0", b"c", b"\xff", b"\xff\xff"):
        put(group, key, b"=" + key)
    return group


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [b"a", b"b", b"b/1", b"b/2", b"b0", b"c", b"\xff", b"\xff\xff"]),
        ("?prefix=", [b"a", b"b", b"b/1", b"b/2", b"b0", b"c", b"\xff", b"\xff\xff"]),
        ("?prefix=b/", [b"b/1", b"b/2"]),
        ("?prefix=b%2F", [b"b/1", b"b/2"]),
        ("?prefix=%FF", [b"\xff", b"\xff\xff"]),
        ("?from=b0", [b"b0", b"c", b"\xff", b"\xff\xff"]),
        ("?to=b", [b"a"]),
        ("?from=b&to=b0", [b"b", b"b/1", b"b/2"]),
        ("?from=c&to=a", []),
        ("?from=&to=b", [b"a"]),
    ],
)
def test_a_range_is_a_prefix_or_from_and_to(filled, query, expected):
    reply = page(filled, query)
    assert (reply.status, keys(reply), reply.json["count"]) == (200, expected, len(expected))
    assert [base64.b64decode(item["value_b64"]) for item in reply.json["items"]] == [
        b"=" + key for key in expected
    ]


def test_a_page_reports_that_there_is_more_and_goes_on_from_the_next_key(filled):
    first = page(filled, "?prefix=b&limit=3")
    assert (keys(first), first.json["more"], first.json["count"]) == ([b"b", b"b/1", b"b/2"], True, 4)
    second = page(filled, "?from=b/2%00&to=c&limit=3")
    assert (keys(second), second.json["more"]) == ([b"b0"], False)


def test_keys_alone_and_their_number_alone(filled):
    only = page(filled, "?prefix=b&keys_only=true")
    assert [item["value_b64"] for item in only.json["items"]] == [None] * 4
    counted = page(filled, "?prefix=b&count_only=true")
    assert (counted.json["items"], counted.json["count"]) == ([], 4)


def test_a_range_of_an_old_revision_is_what_it_was(filled):
    assert keys(page(filled, "?revision=3")) == [b"a", b"b"]


@pytest.mark.parametrize(
    "query",
    [
        "?prefix=a&from=a",
        "?prefix=a&to=a",
        "?to=",
        "?to=%00",
        "?prefix=a&prefix=a",
        "?prefix",
        "?nonsense=1",
        "?limit=0",
        f"?limit={KV_PAGE_MAX + 1}",
        "?limit=-1",
        "?limit=x",
        "?limit=1_0",
        "?revision=99999999999999999999",
        "?revision=9223372036854775808",
        "?keys_only=1",
        "?count_only=",
        "?consistency=x",
        "?prefix=%zz",
        "?&",
        "?" + "&".join(["prefix=a"] * 50),
    ],
)
def test_a_parameter_that_is_not_understood_is_refused(filled, query):
    reply = page(filled, query)
    assert (reply.status, reply.json["code"]) == (422, "request-invalid")


def test_a_range_is_deleted_and_never_everything_by_omission(filled):
    refused = call(filled, "DELETE", "/v1/kv", role=ADMIN)
    assert (refused.status, refused.json["code"]) == (422, "request-invalid")
    assert call(filled, "DELETE", "/v1/kv?prefix=b", role=ADMIN).json["deleted"] == 4
    assert call(filled, "DELETE", "/v1/kv?prefix=", role=ADMIN).json["deleted"] == 4


@given(prefix=st.binary(min_size=1, max_size=4), key=st.binary(min_size=1, max_size=6))
def test_the_end_of_a_prefix_is_behind_exactly_what_begins_with_it(prefix, key):
    end = _end_of_prefix(prefix)
    within = key >= prefix and (end == b"\0" or key < end)
    assert within == key.startswith(prefix)


def test_the_bounds_of_no_parameters_are_all_keys():
    assert _bounds({}, whole=True) == (b"\0", b"\0")


# ---- what all requests have ---------------------------------------------------------------
def test_a_repeated_write_with_its_key_is_executed_once():
    group = service()
    headers = [("idempotency-key", "once")]
    first, second = put(group, b"a", headers=headers), put(group, b"a", headers=headers)
    assert first.body == second.body
    assert len(group.executed) == 1


def test_a_condition_that_failed_is_remembered_with_its_key_too():
    group = service()
    headers = [("idempotency-key", "once"), ("if-match", "*")]
    assert put(group, b"a", headers=headers).status == 412
    put(group, b"a")
    assert put(group, b"a", headers=headers).status == 412


def test_the_same_key_of_a_command_is_another_one():
    group = service()
    put(group, b"a", headers=[("idempotency-key", "once")])
    call(
        group,
        "POST",
        "/v1/commands",
        role=ADMIN,
        json_body={"command": ["put", "a", "b", 0, 0]},
        headers=[("idempotency-key", "once")],
    )
    ((_, one, _), (_, other, _)) = group.executed
    assert one != other


def test_a_lease_goes_with_the_write():
    group = service()
    refused = put(group, b"a", query="?lease=7")
    assert group.executed == [((["put", b"a", b"v", 7, 0],), None, False)]
    assert (refused.status, refused.json["reason"]) == (422, "lease-not-found")


@pytest.mark.parametrize(
    ("outcome", "status", "code"),
    [
        (NotExecuted("no-leader"), 503, "not-executed"),
        (Unknown("leader-lost"), 504, "outcome-unknown"),
        (NotExecuted("idempotency-key-reused"), 422, "idempotency-key-reused"),
    ],
)
def test_a_write_without_a_result_is_answered_as_a_command_is(outcome, status, code):
    for reply in (put(service(end_with=outcome), b"a"), delete(service(end_with=outcome), b"a")):
        assert (reply.status, reply.json["code"]) == (status, code)


@pytest.mark.parametrize(
    ("outcome", "status", "code"),
    [(NotExecuted("no-leader"), 503, "not-executed"), (Unknown("x"), 504, "query-timeout")],
)
def test_a_read_without_a_result_is_answered_as_a_query_is(outcome, status, code):
    for reply in (get(service(end_with=outcome), b"a"), page(service(end_with=outcome))):
        assert (reply.status, reply.json["code"]) == (status, code)


def test_a_write_whose_result_is_not_kept_is_208():
    reply = put(service(end_with=AlreadyExecuted(Cursor(3, 4), b"d" * 32, 9)), b"a")
    assert (reply.status, reply.json["index"], reply.json["size"]) == (208, 4, 9)


def test_weak_reads_are_this_nodes():
    group = service()
    for consistency in ("weak", "strong"):
        get(group, b"a", f"?consistency={consistency}")
        page(group, f"?consistency={consistency}")
    assert [asked[1].value for asked in group.queried] == ["weak", "weak", "strong", "strong"]


def test_a_reader_writes_nothing_and_a_writer_reads_nothing():
    for method, path in (("PUT", "/v1/kv/a"), ("DELETE", "/v1/kv/a"), ("DELETE", "/v1/kv?prefix=")):
        assert call(service(), method, path, role=READ, body=b"").json["code"] == "role-missing"
    for path in ("/v1/kv/a", "/v1/kv"):
        assert call(service(), "GET", path, role=WRITE).json["code"] == "role-missing"


def test_paths_of_keys_share_one_label_in_the_metrics():
    group = service()
    app = create_app(group, ApiLimits())
    put(group, b"secret", app=app)
    text = call(group, "GET", "/metrics", role=ADMIN, app=app).body
    assert b'path="/v1/kv/{key}",status="200"' in text
    assert b"secret" not in text


def test_a_value_of_the_greatest_size_fits_into_a_body():
    assert ApiLimits().body_bytes_max >= VALUE_BYTES_MAX


# ---- the machine against the model ----------------------------------------------------------
KEYS = st.sampled_from([b"a", b"a/1", b"a/2", b"b", b"\xff"])
CONDITIONS = st.sampled_from(
    [[], [], [("if-match", "*")], [("if-none-match", "*")], *([("if-match", f'"{n}"')] for n in range(2, 9))]
)
REQUESTS = st.one_of(
    st.tuples(st.just("PUT"), KEYS.map(path_of), CONDITIONS, st.binary(max_size=3)),
    st.tuples(st.just("DELETE"), KEYS.map(path_of), CONDITIONS.filter(lambda c: c != [("if-none-match", "*")]), st.just(b"")),
    st.tuples(st.just("DELETE"), st.sampled_from(["/v1/kv?prefix=a/", "/v1/kv?from=a/2", "/v1/kv?to=b"]), st.just([]), st.just(b"")),
    st.tuples(st.just("GET"), st.builds(path_of, KEYS, st.sampled_from(["", "?revision=3", "?revision=6"])), st.just([]), st.just(b"")),
    st.tuples(
        st.just("GET"),
        st.sampled_from(
            ["/v1/kv", "/v1/kv?prefix=a&limit=1", "/v1/kv?keys_only=true", "/v1/kv?count_only=true", "/v1/kv?revision=4"]
        ),
        st.just([]),
        st.just(b""),
    ),
)  # fmt: skip


@given(requests=st.lists(REQUESTS, max_size=25))
def test_any_requests_are_answered_alike_by_the_machine_and_the_model(requests):
    services = FakeService(machine=KvModel()), FakeService(machine=KeyValue())
    for method, path, headers, body in requests:
        one, other = (call(each, method, path, role=ADMIN, body=body, headers=headers) for each in services)
        shown = [
            (reply.status, reply.headers.get("etag"), reply.headers.get("bondstone-version"))
            for reply in (one, other)
        ]
        assert shown[0] == shown[1]
        if one.status == 200:
            assert one.body == other.body
