"""POST /v1/commands and /v1/queries: what goes in, what comes out, and every way of not succeeding."""

import json

import pytest

from attestation.encoding.canonical import digest
from node.api.limits import ApiLimits
from node.api.service import UnavailableError
from node.group.errors import GroupClosedError
from node.raft.types import AlreadyExecuted, Answer, Consistency, Cursor, Failed, NotExecuted, Unknown
from node.tokens import AccessRole
from tests.node.api.fakes import ME, TOKENS, FakeService, call

PUT = {"op": "put", "key": "a", "value": "1"}


def command(service, body, **more):
    return call(service, "POST", "/v1/commands", role=AccessRole.WRITE, json_body=body, **more)


def query(service, body, **more):
    return call(service, "POST", "/v1/queries", role=AccessRole.READ, json_body=body, **more)


# ---- commands that succeed ---------------------------------------------------------
def test_a_command_answers_with_its_place_and_result():
    reply = command(FakeService(), {"command": PUT})

    assert reply.status == 200
    assert reply.json == {
        "term": 3,
        "index": 1,
        "result": {"revision": 2, "create_revision": 2, "version": 1},
    }


def test_several_commands_are_one_entry_with_several_results():
    service = FakeService()
    reply = command(service, {"commands": [PUT, {"op": "delete", "key": "a"}]})

    assert [entry[0] for entry in service.executed] == [(PUT, {"op": "delete", "key": "a"})]
    assert reply.json["index"] == 1
    assert [result["revision"] for result in reply.json["results"]] == [2, 3]


def test_accepted_answers_202_with_the_place_alone():
    service = FakeService()
    reply = command(service, {"command": PUT, "wait": "accepted"})

    assert reply.status == 202
    assert reply.json == {"term": 3, "index": 1}
    assert service.executed[0][2] is True


def test_a_repetition_whose_results_are_no_longer_kept_gets_that_it_was_executed():
    kept = AlreadyExecuted(Cursor(3, 7), b"d" * 32, 5000)
    reply = command(FakeService(end_with=kept), {"command": PUT})

    assert reply.status == 208
    assert reply.json == {
        "code": "already-executed",
        "term": 3,
        "index": 7,
        "result": None,
        "digest": "64" * 32,
        "size": 5000,
    }
    fed = command(FakeService(end_with=kept), {"command": PUT, "wait": "accepted"})
    assert (fed.status, fed.json) == (202, {"term": 3, "index": 7})


def test_the_same_idempotency_key_gives_the_first_result_again():
    service = FakeService()
    headers = [("Idempotency-Key", "order-7")]

    first = command(service, {"command": PUT}, headers=headers)
    again = command(service, {"command": PUT}, headers=headers)
    other = command(service, {"command": PUT}, headers=[("Idempotency-Key", "order-8")])
    assert first.body == again.body
    assert other.json["index"] == 2
    assert len(service.executed) == 2


def test_two_callers_with_the_same_idempotency_key_do_not_meet():
    service = FakeService()
    headers = [("Idempotency-Key", "1")]
    command(service, {"command": PUT}, headers=headers)
    call(service, "POST", "/v1/commands", role=AccessRole.ADMIN, json_body={"command": PUT}, headers=headers)

    keys = [key for _, key, _ in service.executed]
    assert len(set(keys)) == 2
    assert all(len(key) == 32 for key in keys)


# ---- commands that end otherwise --------------------------------------------------------
def test_a_refusal_by_the_state_machine_carries_its_code_and_place():
    reply = command(FakeService(), {"command": {"op": "frob"}})

    assert reply.status == 422
    assert reply.json["code"] == "command-failed"
    assert reply.json["reason"] == "op-unknown"
    assert (reply.json["term"], reply.json["index"]) == (3, 1)


def test_a_refused_command_in_a_batch_is_named_and_nothing_of_the_batch_happens():
    service = FakeService()
    reply = command(service, {"commands": [PUT, {"op": "frob"}, PUT]})

    assert reply.json["reason"] == "op-unknown"
    assert [failure["code"] for failure in reply.json["failures"]] == [
        "batch-aborted",
        "op-unknown",
        "batch-aborted",
    ]
    assert service.machine.query({"op": "get", "key": "a"})["item"] is None


@pytest.mark.parametrize("leader", [ME, None])
def test_not_executed_is_503_and_states_that_a_repetition_is_safe(leader):
    reply = command(FakeService(end_with=NotExecuted("no-leader", leader)), {"command": PUT})

    assert reply.status == 503
    assert reply.headers["retry-after"] == "1"
    assert reply.json["code"] == "not-executed"
    assert reply.json["reason"] == "no-leader"
    assert reply.json["leader"] == (leader and {"name": leader.name, "peer_id": leader.id.hex()})


def test_unknown_is_504_and_promises_nothing():
    reply = command(FakeService(end_with=Unknown("deadline")), {"command": PUT})

    assert reply.status == 504
    assert "retry-after" not in reply.headers
    assert (reply.json["code"], reply.json["reason"]) == ("outcome-unknown", "deadline")


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        ("idempotency-key-reused", 422, "idempotency-key-reused"),
        ("command-too-large", 413, "body-too-large"),
    ],
)
def test_what_no_repetition_can_help_is_not_called_retryable(reason, status, code):
    reply = command(FakeService(end_with=NotExecuted(reason)), {"command": PUT})

    assert (reply.status, reply.json["code"]) == (status, code)
    assert "retry-after" not in reply.headers


def test_a_node_without_a_group_is_503_with_the_reason():
    reply = command(FakeService(group_key=None), {"command": PUT})

    assert reply.status == 503
    assert (reply.json["code"], reply.json["reason"]) == ("not-ready", "awaiting-group-key")


def test_a_group_that_ends_leaves_a_command_unknown_and_a_query_unanswered():
    service = FakeService(end_with=GroupClosedError("halted"))
    written, asked = command(service, {"command": PUT}), query(service, {"query": 1})

    assert (written.status, written.json["code"]) == (504, "outcome-unknown")
    assert (asked.status, asked.json["code"]) == (503, "not-ready")
    assert written.json["reason"] == asked.json["reason"] == "group-closed"


def test_a_bug_is_500_without_internal_details(caplog):
    reply = command(FakeService(end_with=ZeroDivisionError("secret")), {"command": PUT})

    assert reply.status == 500
    assert reply.json["code"] == "internal-error"
    assert b"secret" not in reply.body
    assert "secret" in caplog.text


# ---- bad input ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        (b"", 400, "json-invalid", ""),
        (b"{", 400, "json-invalid", ""),
        (b'{"command": "\xff"}', 400, "json-invalid", ""),
        (b'{"command": "\\ud800"}', 400, "json-invalid", ""),
        (b'{"command": NaN}', 400, "json-invalid", ""),
        (b'{"command": 1} {}', 400, "json-invalid", ""),
        (b'{"command": 1, "command": 2}', 400, "json-invalid", "'command' occurs twice"),
        (b'{"command": {"op": "noop", "op": "put"}}', 400, "json-invalid", "'op' occurs twice"),
        (b"[]", 422, "request-invalid", "object"),
        (b"{}", 422, "request-invalid", "exactly one"),
        (b'{"command": 1, "commands": [1]}', 422, "request-invalid", "exactly one"),
        (b'{"commands": []}', 422, "request-invalid", "commands"),
        (b'{"commands": 7}', 422, "request-invalid", "commands"),
        (b'{"command": 1, "comand": 2}', 422, "request-invalid", "unknown member `comand`"),
        (b'{"command": 1, "wait": "maybe"}', 422, "request-invalid", "maybe"),
        (b'{"command": 1.5}', 422, "request-invalid", "fraction"),
        (b'{"command": [{"a": 1e3}]}', 422, "request-invalid", "fraction"),
        (b'{"command": 9223372036854775808}', 422, "request-invalid", "64 bits"),
        (b'{"command": ' + b"[" * 30 + b"]" * 30 + b"}", 422, "request-invalid", "deeper than 24"),
        (b'{"command": ' + b"[" * 8000 + b"]" * 8000 + b"}", 422, "request-invalid", "deep"),
        (b'{"commands": [' + b"1," * 1000 + b"1]}", 422, "request-invalid", "1000"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_bad_body_is_refused_by_name_and_nothing_is_executed(body, status, code, says):
    service = FakeService()
    reply = call(service, "POST", "/v1/commands", role=AccessRole.WRITE, body=body)

    assert (reply.status, reply.json["code"]) == (status, code)
    assert says in reply.json["detail"]
    assert reply.headers["content-type"] == "application/problem+json"
    assert service.executed == []


def test_values_at_the_limits_pass_unchanged():
    service = FakeService(end_with=NotExecuted("stop"))
    seen = []

    async def execute(commands, **_):
        seen.append(commands)
        return NotExecuted("stop")

    service.execute = execute
    value = 0
    for _ in range(24):
        value = [value]
    for one in (value, 2**63 - 1, -(2**63), None, True, "\x00é"):
        command(service, {"command": one})

    assert seen == [(value,), (2**63 - 1,), (-(2**63),), (None,), (True,), ("\x00é",)]


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"]
)
def test_only_json_is_taken_so_that_no_web_page_can_send_it(media_type):
    reply = command(FakeService(), {"command": PUT}, headers=[("Content-Type", media_type)])

    assert (reply.status, reply.json["code"]) == (415, "media-type-unsupported")
    assert reply.headers["accept"] == "application/json"


def test_a_charset_parameter_does_no_harm():
    reply = command(
        FakeService(), {"command": PUT}, headers=[("Content-Type", "Application/JSON; charset=utf-8")]
    )

    assert reply.status == 200


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 129])
def test_an_invalid_idempotency_key_is_refused(key):
    reply = command(FakeService(), {"command": PUT}, headers=[("Idempotency-Key", key)])

    assert (reply.status, reply.json["code"]) == (422, "request-invalid")


def test_two_idempotency_keys_are_refused():
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]

    assert command(FakeService(), {"command": PUT}, headers=twice).status == 422


def test_another_method_is_405_and_lists_the_allowed_ones():
    reply = call(FakeService(), "GET", "/v1/commands", role=AccessRole.WRITE)

    assert (reply.status, reply.json["code"]) == (405, "method-not-allowed")
    assert reply.headers["allow"] == "POST"


# ---- sizes ---------------------------------------------------------------------------------
def test_a_declared_size_over_the_limit_is_refused_whatever_comes():
    service = FakeService()
    reply = call(
        service,
        "POST",
        "/v1/commands",
        role=AccessRole.WRITE,
        body=b"{}",
        headers=[("content-length", str(ApiLimits().body_bytes_max + 1))],
    )

    assert (reply.status, reply.json["code"]) == (413, "body-too-large")
    assert reply.headers["connection"] == "close"


def test_an_undeclared_size_over_the_limit_is_refused_while_it_arrives():
    reply = call(
        FakeService(),
        "POST",
        "/v1/commands",
        role=AccessRole.WRITE,
        headers=[("content-type", "application/json"), ("transfer-encoding", "chunked")],
        chunks=[b"x" * 600] * 3,
        limits=ApiLimits(body_bytes_max=1000),
    )

    assert (reply.status, reply.json["code"]) == (413, "body-too-large")


def test_a_body_of_exactly_the_limit_is_taken_also_in_pieces():
    body = json.dumps({"command": PUT}).encode()
    padded = body + b" " * (1000 - len(body))
    reply = call(
        FakeService(),
        "POST",
        "/v1/commands",
        role=AccessRole.WRITE,
        headers=[("content-type", "application/json")],
        chunks=[padded[:500], padded[500:]],
        limits=ApiLimits(body_bytes_max=1000),
    )

    assert reply.status == 200


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("way", ["declared", "undeclared", "in pieces", "the last byte alone"])
def test_one_byte_over_the_limit_of_a_body_is_one_too_many(way, over):
    body = json.dumps({"command": PUT}).encode()
    body += b" " * (1000 + over - len(body))
    chunks = {"in pieces": [body[:500], body[500:]], "the last byte alone": [body[:-1], body[-1:]]}
    headers = (
        [("content-length", str(len(body)))] if way == "declared" else [("transfer-encoding", "chunked")]
    )
    service = FakeService()
    reply = call(
        service,
        "POST",
        "/v1/commands",
        role=AccessRole.WRITE,
        headers=[("content-type", "application/json"), *headers],
        chunks=chunks.get(way, [body]),
        limits=ApiLimits(body_bytes_max=1000),
    )

    assert reply.status == (413 if over else 200)
    assert len(service.executed) == 1 - over


def test_a_client_that_goes_away_in_its_body_gets_nothing_executed():
    service = FakeService()
    reply = call(
        service,
        "POST",
        "/v1/commands",
        role=AccessRole.WRITE,
        headers=[("content-type", "application/json")],
        chunks=[b'{"command"', None],
    )

    assert reply is None
    assert service.executed == []


# ---- queries -------------------------------------------------------------------------------
def test_a_query_answers_with_the_state_that_it_read():
    service = FakeService()
    command(service, {"command": PUT})
    reply = query(service, {"query": {"op": "get", "key": "a"}})

    assert reply.status == 200
    assert reply.json["result"]["item"]["value"] == "1"
    assert reply.json["at"] == {"term": 3, "index": 1}
    assert service.queried[-1][1:] == (Consistency.STRONG, None, None)


def test_weak_queries_may_bound_their_age_and_place():
    service = FakeService()
    query(
        service,
        {
            "query": {"op": "get", "key": "a"},
            "consistency": "weak",
            "min_at": {"term": 2, "index": 9},
            "max_age_ms": 50,
        },
    )

    assert service.queried[-1][1:] == (Consistency.WEAK, Cursor(2, 9), 50)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "missing member `query`"),
        ({"query": 1, "consistency": "eventual"}, "eventual"),
        ({"query": 1, "max_age_ms": 5}, "weak queries only"),
        ({"query": 1, "consistency": "weak", "max_age_ms": -1}, "max_age_ms"),
        ({"query": 1, "min_at": {"term": 1}}, "missing member `index`"),
        ({"query": 1, "min_at": {"term": 1, "index": 1, "x": 1}}, "unknown member `x`"),
        ({"query": 1.5}, "fraction"),
    ],
)
def test_a_bad_query_is_refused_by_name(body, says):
    service = FakeService()
    reply = query(service, body)

    assert (reply.status, reply.json["code"]) == (422, "request-invalid")
    assert says in reply.json["detail"]
    assert service.queried == []


@pytest.mark.parametrize(
    ("ending", "status", "code", "reason"),
    [
        (NotExecuted("too-old"), 503, "not-executed", "too-old"),
        (NotExecuted("superseded"), 409, "superseded", None),
        (Unknown("deadline"), 504, "query-timeout", None),
        (Answer(Failed("query-raised", "x"), Cursor(1, 1)), 422, "query-failed", "query-raised"),
        (UnavailableError("group-closed", "x"), 503, "not-ready", "group-closed"),
    ],
    ids=["not-executed", "superseded", "unknown", "failed", "unavailable"],
)
def test_a_query_without_an_answer_reports_the_reason(ending, status, code, reason):
    reply = query(FakeService(end_with=ending), {"query": 1})

    assert (reply.status, reply.json["code"], reply.json.get("reason")) == (status, code, reason)


def test_bytes_from_a_users_machine_come_out_as_base64():
    reply = query(FakeService(end_with=Answer({"raw": b"\xff\x00"}, Cursor(1, 1))), {"query": 1})

    assert reply.json["result"] == {"raw": "/wA="}


@pytest.mark.parametrize("length", [1, 22, 23, 24, 25, 127, 128])
def test_the_log_has_the_digest_of_credential_and_key_in_deterministic_cbor(length):
    service, given = FakeService(), "k" * length
    for _ in range(2):
        command(service, {"command": PUT}, headers=[("Idempotency-Key", given)])

    mine = service.state.grants.of_token(TOKENS[AccessRole.WRITE].encode())
    wanted = digest("bondstone/idempotency-key/v1", mine.credential, given.encode())
    assert [key for _, key, _ in service.executed] == [wanted]
