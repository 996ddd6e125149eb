"""Every other operation, and what is the same for all of them."""

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace

import jsonschema
import pytest

from node.api.app import create_app
from node.api.evidence import binding_of_nonce
from node.api.limits import ApiLimits
from node.api.openapi import openapi_document, problems_of
from node.api.operations import METHODS, OPERATIONS
from node.api.problems import CATALOGUE, ProblemError
from node.api.service import Readiness, UnavailableError
from node.audit import AuditChainError
from node.peers import Preference
from node.raft.outlook import Absence, Absent, Outlook, Quorum, describe
from node.raft.quorum import Config
from node.raft.types import AlreadyExecuted, Cursor, NotExecuted, Unknown
from node.tokens import AccessRole
from tests.node.api.fakes import BOND, CONFIG, LEADING, ME, OTHER, PEER, FakeService, asgi, call

ADMIN = AccessRole.ADMIN
NONCE = "0f" * 32


# ---- health ---------------------------------------------------------------------------
def test_readyz_reports_why_the_node_is_not_ready():
    down = Readiness(ready=False, reason="no-leader", message="no leader is known")
    reply = call(FakeService(readiness_answer=down), "GET", "/readyz")

    assert call(FakeService(), "GET", "/readyz").json == {
        "ready": True,
        "cluster": {"id": "09" * 32, "generation": 0},
    }
    assert reply.status == 503
    assert (reply.json["reason"], reply.json["detail"]) == ("no-leader", "no leader is known")


def test_metrics_show_the_groups_state_and_the_requests():
    service = FakeService()
    app = create_app(service, ApiLimits())

    async def both():
        await asgi(app, "GET", "/v1/nope/" + "x" * 50, role=ADMIN)
        await asgi(app, "GET", "/v1/group", role=ADMIN)
        return await asgi(app, "GET", "/metrics", role=ADMIN)

    text = asyncio.run(both()).body.decode()
    assert 'bondstone_http_requests_total{path="other",status="404"} 1.0' in text
    assert 'bondstone_http_requests_total{path="/v1/group",status="200"} 1.0' in text
    assert "bondstone_term 3.0" in text
    assert "bondstone_voters 2.0" in text
    assert "bondstone_mock 1.0" in text
    assert "bondstone_idempotency_keys 3.0" in text
    assert "bondstone_idempotency_keys_max 2.097152e+06" in text
    assert "bondstone_kept_result_bytes 99.0" in text
    assert "bondstone_brief_results 1.0" in text
    assert "bondstone_state_age_seconds 0.25" in text


def test_metrics_count_successful_commands_by_the_time_they_took():
    ticks = iter([0.0, 0.0015, 1.0, 1.5])
    app = create_app(FakeService(), ApiLimits(), clock=lambda: next(ticks))
    body = json.dumps({"command": {"op": "put", "key": "a", "value": "b"}}).encode()
    headers = [("content-type", "application/json")]

    async def scenario():
        for _ in range(2):
            await asgi(app, "POST", "/v1/commands", role=ADMIN, headers=headers, chunks=(body,))
        return await asgi(app, "GET", "/metrics", role=ADMIN)

    text = asyncio.run(scenario()).body.decode()
    assert 'bondstone_command_seconds_bucket{le="0.001"} 0.0' in text
    assert 'bondstone_command_seconds_bucket{le="0.002"} 1.0' in text
    assert 'bondstone_command_seconds_bucket{le="0.5"} 2.0' in text
    assert 'bondstone_command_seconds_bucket{le="+Inf"} 2.0' in text
    assert "bondstone_command_seconds_sum 0.5015" in text


def test_before_there_is_a_group_no_credential_is_known():
    reply = call(FakeService(group_key=None), "GET", "/metrics", role=ADMIN)

    assert (reply.status, reply.json["code"]) == (503, "not-ready")


# ---- who is missing, and who has stopped -------------------------------------------------
LOST = Outlook(Quorum.LOST, (Absent(PEER, Absence.UNREACHABLE),))
GONE = Outlook(Quorum.GONE, (Absent(PEER, Absence.RESTARTED), Absent(OTHER, Absence.DEPARTED)))
SHORT = Outlook(Quorum.SHORT, (Absent(PEER, Absence.UNREACHABLE),))


@pytest.mark.parametrize(("outlook", "helps"), [(LOST, True), (GONE, False), (SHORT, True)])
def test_status_names_the_missing_voters_and_whether_waiting_can_help(outlook, helps):
    group = call(FakeService(outlook=outlook), "GET", "/v1/group", role=ADMIN).json

    assert group["quorum"]["state"] == outlook.quorum.value
    assert group["quorum"]["waiting_helps"] is helps
    assert [one["peer_id"] for one in group["quorum"]["missing"]] == [
        one.voter.id.hex() for one in outlook.absent
    ]
    assert [one["why"] for one in group["quorum"]["missing"]] == [one.why.value for one in outlook.absent]
    assert group["warnings"][0]["code"] == f"quorum-{outlook.quorum.value}"
    assert PEER.name in group["warnings"][0]["message"]


@pytest.mark.parametrize(
    "ending", [NotExecuted("deadline"), Unknown("deadline"), UnavailableError("no", "unavailable")]
)
@pytest.mark.parametrize("path", ["/v1/commands", "/v1/queries"])
def test_a_request_that_fails_without_a_quorum_names_that_cause(ending, path):
    body = PUT_BODY if path == "/v1/commands" else {"query": {"op": "get", "key": "a"}}
    reply = call(FakeService(end_with=ending, outlook=GONE), "POST", path, role=ADMIN, json_body=body)

    published("POST", path, reply)
    assert reply.status >= 500
    assert reply.json["quorum"]["state"] == "gone"
    assert reply.json["quorum"]["waiting_helps"] is False
    assert "waiting does not help" in reply.json["detail"]
    well = call(FakeService(end_with=ending), "POST", path, role=ADMIN, json_body=body)
    assert "quorum" not in well.json


def test_readyz_names_the_missing_voters():
    down = Readiness(ready=False, reason="quorum-lost", message=describe(LOST))
    reply = call(FakeService(readiness_answer=down, outlook=LOST), "GET", "/readyz")

    published("GET", "/readyz", reply)
    assert reply.json["reason"] == "quorum-lost"
    assert reply.json["detail"].count(f"{PEER.name} (unreachable)") == 1
    assert reply.json["quorum"]["missing"][0]["name"] == PEER.name


def test_metrics_show_a_quorum_that_is_lost_and_one_that_is_gone():
    def gauges(outlook):
        text = call(FakeService(outlook=outlook), "GET", "/metrics", role=ADMIN).body.decode()
        return [
            line.split()[1]
            for line in text.splitlines()
            if line.startswith(
                ("bondstone_quorum_missing ", "bondstone_quorum_gone ", "bondstone_voters_missing ")
            )
        ]

    assert gauges(LOST) == ["1.0", "0.0", "1.0"]
    assert gauges(GONE) == ["1.0", "1.0", "2.0"]
    assert gauges(Outlook(Quorum.HELD, LOST.absent)) == ["0.0", "0.0", "1.0"]


def test_a_halted_node_is_no_leader():
    service = FakeService(halted="log-divergence")
    group = call(service, "GET", "/v1/group", role=ADMIN).json
    metrics = call(service, "GET", "/metrics", role=ADMIN).body.decode()

    assert group["role"] == "halted"
    assert group["halted"] == "log-divergence"
    assert "bondstone_leader 0.0" in metrics
    assert "bondstone_halted 1.0" in metrics


# ---- group ------------------------------------------------------------------------------
def test_fewer_electable_members_than_min_voters_are_named():
    def warnings(*electable):
        return call(FakeService(electable=electable), "GET", "/v1/group", role=AccessRole.READ).json[
            "warnings"
        ]

    assert warnings(ME, PEER) == []
    (one,) = warnings(ME)
    assert one["code"] == "too-few-electable"
    assert "at least 2 voters" in one["message"]
    assert "only 1 that may vote (node-a)" in one["message"]
    assert "only 0 that may vote (nobody)" in warnings()[0]["message"]


def test_the_group_names_leader_voters_and_learners_by_peer_id():
    group = call(FakeService(), "GET", "/v1/group", role=ADMIN).json

    assert group["group_id"] == "08" * 32
    assert group["leader"] == ME.id.hex()
    assert group["voters"] == [ME.id.hex(), PEER.id.hex()]
    assert group["learners"] == [OTHER.id.hex()]
    assert (group["term"], group["commit_index"], group["role"]) == (3, 0, "leader")
    assert group["mock"] is True
    assert group["levels"] == {"feature_level": 1, "machine": "bondstone/kv", "machine_version": 1}


def test_members_shows_role_and_bond():
    members = call(FakeService(), "GET", "/v1/members", role=ADMIN).json["members"]

    assert [(m["name"], m["role"], m["self"], m["bonded"], m["api"]) for m in members] == [
        ("node-a", "leader", True, False, None),
        ("node-b", "voter", False, True, "https://127.0.0.1:8444"),
        ("node-c", "learner", False, False, None),
    ]


def test_a_change_of_the_voters_is_pending_until_it_is_committed():
    later = Config(epoch=3, voters=(ME, OTHER), tie=ME, reason="replace node-b by node-c")
    service = FakeService(configs=(CONFIG, later))
    shown = call(service, "GET", "/v1/members", role=AccessRole.READ).json
    group = call(service, "GET", "/v1/group", role=AccessRole.READ).json
    pending = {
        "config_epoch": 3,
        "voters": [ME.id.hex(), OTHER.id.hex()],
        "reason": "replace node-b by node-c",
    }

    assert (shown["config_epoch"], shown["pending_change"]) == (2, pending)
    assert [(m["role"], m["pending"]) for m in shown["members"]] == [
        ("leader", None),
        ("voter", "demotion"),
        ("learner", "promotion"),
    ]
    assert (group["config_epoch"], group["pending_change"]) == (2, pending)
    assert (group["voters"], group["learners"]) == ([ME.id.hex(), PEER.id.hex()], [OTHER.id.hex()])


def test_a_leader_shows_how_far_every_member_is_and_another_member_knows_only_bonds():
    behind = replace(LEADING, responsive=(ME, PEER), in_step=(ME,))

    def seen(**service):
        answer = call(FakeService(index=4, **service), "GET", "/v1/members", role=AccessRole.READ).json
        return [(m["connected"], m["caught_up"], m["lag"]) for m in answer["members"]]

    assert seen(leading=behind) == [(True, True, 0), (True, False, 0), (False, False, None)]
    assert seen(leading=None) == [(True, None, None), (True, None, None), (False, None, None)]


def test_an_observer_is_shown_as_one():
    watching = SimpleNamespace(**{**vars(BOND), "peer": OTHER, "preference": Preference.OBSERVER})
    members = call(FakeService(bonded=[watching]), "GET", "/v1/members", role=AccessRole.READ).json["members"]

    assert [m["role"] for m in members] == ["leader", "voter", "observer"]


def test_bonds_shows_appraisal_and_expiry():
    answer = call(FakeService(), "GET", "/v1/bonds", role=ADMIN).json

    assert answer["mock"] is True
    assert answer["bonds"][0]["appraisals"]["tdx"]["status"] == "UpToDate"
    assert answer["bonds"][0]["expires_at"] == "2026-01-02T04:04:05Z"
    assert answer["bonds"][0]["software"] == {
        "image": "bondstone 1.0",
        "feature_levels": [1, 2],
        "machine": "bondstone/kv",
        "machine_versions": [1, 1],
    }


# ---- attestation --------------------------------------------------------------------------
def test_own_evidence_is_bound_to_the_nonce():
    reply = call(FakeService(), "GET", f"/v1/attestation/evidence?nonce={NONCE}")

    assert reply.json["nonce"] == NONCE
    assert reply.json["binding"] == binding_of_nonce(bytes.fromhex(NONCE)).hex()
    assert reply.json["peer_id"] == ME.id.hex()
    assert reply.json["tickets"] == {"tdx": "b3du/w=="}


def test_two_nonces_give_two_bindings():
    assert binding_of_nonce(b"a" * 16) != binding_of_nonce(b"b" * 16)
    assert len(binding_of_nonce(b"a" * 16)) == 32


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?nonce=",
        "?nonce=00",
        "?nonce=" + "0" * 31,
        "?nonce=" + "zz" * 16,
        "?nonce=" + "00" * 65,
        "?nonce=" + "00%20" * 16,
        f"?nonce={NONCE}&x=1",
        f"?nonce={NONCE}&nonce={NONCE}",
    ],
)
def test_evidence_for_no_proper_nonce_is_refused(query):
    reply = call(FakeService(), "GET", f"/v1/attestation/evidence{query}")

    assert (reply.status, reply.json["code"]) == (422, "request-invalid")


def test_peers_evidence_is_as_it_was_received():
    answer = call(FakeService(), "GET", "/v1/attestation/peers", role=ADMIN).json

    assert answer["peers"][0]["tickets"] == {"tdx": "AHRpY2tldP8="}
    assert answer["peers"][0]["peer_id"] == PEER.id.hex()


@pytest.mark.parametrize("mock", [True, False])
@pytest.mark.parametrize(
    "path", ["/v1/attestation/evidence", f"/v1/attestation/evidence?nonce={NONCE}", "/v1/attestation/peers"]
)
@pytest.mark.parametrize("role", [None, ADMIN], ids=["anybody", "admin"])
def test_every_attestation_answer_reports_whether_it_is_mock_even_a_refusal(mock, path, role):
    assert call(FakeService(mock=mock), "GET", path, role=role).json["mock"] is mock


EVIDENCE = f"/v1/attestation/evidence?nonce={NONCE}"


async def steps(count=10):
    for _ in range(count):
        await asyncio.sleep(0)


def served_one_by_one(app, service, crowd_from, *, crowd=12):
    """A crowd asks for evidence again as soon as it is answered; return after how many answers an auditor is."""

    async def scenario():
        answered = []
        service.gate = asyncio.Event()

        async def ask(client):
            while True:
                reply = await asgi(app, "GET", EVIDENCE, client=client)
                answered.append((client, reply.status))
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(ask(crowd_from(number))) for number in range(crowd)]
        await steps()
        auditor = asyncio.create_task(asgi(app, "GET", EVIDENCE, client="198.51.100.7"))
        await steps()
        while not auditor.done():
            # One quote is ready: those at the gate are let through, and it is closed behind them.
            gate, service.gate = service.gate, asyncio.Event()
            gate.set()
            await steps()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return auditor.result().status, answered

    return asyncio.run(scenario())


def test_many_evidence_requests_from_one_address_still_leave_an_auditor_a_turn():
    """Twelve strangers left the auditor one in five: the newest lost."""
    service = FakeService()
    app = create_app(service, ApiLimits(concurrent_evidence_max=2))
    status, answered = served_one_by_one(app, service, lambda _: "192.0.2.1")

    assert status == 200
    assert len(answered) <= 6  # those who were at it, and about a turn of the crowd
    assert {status for _, status in answered} == {200}


def test_many_evidence_requests_from_many_addresses_still_leave_an_auditor_a_turn():
    service = FakeService()
    app = create_app(service, ApiLimits(concurrent_evidence_max=2))
    status, answered = served_one_by_one(app, service, lambda number: f"192.0.2.{number}")

    assert status == 200
    assert len(answered) <= 16


def test_evidence_requests_beyond_the_waiting_room_are_429_for_the_caller_with_the_most():
    async def scenario():
        service = FakeService(gate=asyncio.Event())
        app = create_app(service, ApiLimits(concurrent_evidence_max=2, evidence_waiting_max=4))
        crowd = [asyncio.create_task(asgi(app, "GET", EVIDENCE, client="192.0.2.1")) for _ in range(6)]
        await steps()
        auditor = asyncio.create_task(asgi(app, "GET", EVIDENCE, client="198.51.100.7"))
        await steps()
        service.gate.set()
        return [(await task) for task in crowd], await auditor, await asgi(app, "GET", EVIDENCE)

    crowd, auditor, later = asyncio.run(scenario())
    assert [reply.status for reply in crowd] == [200, 200, 429, 200, 200, 200]
    assert crowd[2].json["code"] == "evidence-busy"
    assert auditor.status == later.status == 200


def test_a_caller_that_waits_too_long_for_evidence_gets_an_error_and_takes_no_turn():
    async def scenario():
        service = FakeService(gate=asyncio.Event())
        app = create_app(service, ApiLimits(concurrent_evidence_max=1, evidence_wait_s_max=0.01))
        first = asyncio.create_task(asgi(app, "GET", EVIDENCE))
        await steps()
        second = await asgi(app, "GET", EVIDENCE)
        given_up = asyncio.create_task(asgi(app, "GET", EVIDENCE))
        await steps()
        given_up.cancel()
        service.gate.set()
        return await first, second, await asgi(app, "GET", EVIDENCE)

    first, second, third = asyncio.run(scenario())
    assert (second.status, second.json["code"]) == (429, "evidence-busy")
    assert first.status == third.status == 200


# ---- audit ----------------------------------------------------------------------------------
def test_audit_events_page():
    events = call(FakeService(), "GET", "/v1/audit/events?after=2&limit=3", role=ADMIN).json["events"]

    assert [event["seq"] for event in events] == [3, 4, 5]
    assert call(FakeService(), "GET", "/v1/audit/head", role=ADMIN).json == {"seq": 7, "hash": "00"}


def test_a_log_that_was_changed_on_the_disk_is_not_served():
    def changed(**_):
        raise AuditChainError(3, "hash-mismatch", "was changed after it was written")

    service = FakeService()
    service.audit_events = changed
    reply = call(service, "GET", "/v1/audit/events", role=ADMIN)

    assert (reply.status, reply.json["code"]) == (500, "audit-chain-broken")
    assert reply.json["detail"] == "event 3: was changed after it was written [hash-mismatch]"


@pytest.mark.parametrize(
    "query",
    [
        "after=-1",
        "after=x",
        "after=²",
        "limit=0",
        "limit=1001",
        "limit=",
        "since=1",
        "after=1&after=2",
        "after=" + "9" * 40,
    ],
)
def test_audit_events_refuse_a_bad_page(query):
    reply = call(FakeService(), "GET", f"/v1/audit/events?{query}", role=ADMIN)

    assert (reply.status, reply.json["code"]) == (422, "request-invalid")


# ---- the same for all ---------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/", "/v1", "/v1/group/", "/v1/grou", "/v1/commands/", "/../etc/passwd"])
def test_an_unknown_path_is_404(path):
    reply = call(FakeService(), "GET", path, role=ADMIN)

    assert (reply.status, reply.json["code"]) == (404, "not-found")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_another_method_is_405(operation):
    reply = call(FakeService(), "PATCH", operation.path, role=ADMIN)

    assert (reply.status, reply.json["code"]) == (405, "method-not-allowed")
    assert operation.method in reply.headers["allow"]


def test_requests_in_progress_of_one_caller_leave_others_room():
    async def scenario():
        service = FakeService(gate=asyncio.Event())
        app = create_app(service, ApiLimits(concurrent_requests_max=16))
        body = json.dumps({"command": {"op": "put", "key": "a", "value": "b"}}).encode()
        headers = [("content-type", "application/json")]

        def put(role):
            return asgi(app, "POST", "/v1/commands", role=role, headers=headers, chunks=(body,))

        held = [asyncio.create_task(put(AccessRole.WRITE)) for _ in range(14)]
        await steps()
        refused = await put(AccessRole.WRITE)
        admin = await asgi(app, "GET", "/v1/group", role=ADMIN)
        service.gate.set()
        return refused, admin, [await task for task in held]

    refused, admin, answered = asyncio.run(scenario())
    assert (refused.status, refused.json["code"]) == (503, "overloaded")
    assert admin.status == 200
    assert [reply.status for reply in answered] == [200] * 14


def test_over_the_limit_of_requests_the_rest_is_503_and_health_still_answers():
    async def scenario():
        service = FakeService(gate=asyncio.Event())
        app = create_app(service, ApiLimits(concurrent_requests_max=3))
        body = json.dumps({"command": {"op": "put", "key": "a", "value": "b"}}).encode()
        headers = [("content-type", "application/json")]

        def put():
            return asgi(app, "POST", "/v1/commands", role=ADMIN, headers=headers, chunks=(body,))

        held = [asyncio.create_task(put()) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused = [await put(), await asgi(app, "GET", "/v1/group", role=ADMIN)]
        health = await asgi(app, "GET", "/healthz")
        service.gate.set()
        answered = [await task for task in held]
        return refused, health, answered, await put()

    refused, health, answered, later = asyncio.run(scenario())
    assert [(reply.status, reply.json["code"]) for reply in refused] == [(503, "overloaded")] * 2
    assert refused[0].headers["retry-after"] == "1"
    assert health.status == 200
    assert [reply.status for reply in [*answered, later]] == [200] * 4


def test_problem_documents_are_not_cached():
    assert call(FakeService(), "GET", "/nope").headers["cache-control"] == "no-store"


# ---- the interface description ----------------------------------------------------------------
DOCUMENT = openapi_document()


def schema_for(method, path, status, media_type):
    response = DOCUMENT["paths"][path][method.lower()]["responses"][str(status)]
    return {**response["content"][media_type]["schema"], "components": DOCUMENT["components"]}


def validate(value, schema):
    jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(value)


def published(method, path, reply):
    """Check an answer against what is published for it."""
    media_type = reply.headers["content-type"]
    schema = schema_for(method, path.partition("?")[0], reply.status, media_type)
    validate(reply.json, schema)


PUT_BODY = {"command": {"op": "put", "key": "a", "value": "b"}}
NEW = {"name": "ci", "roles": ["read"], "token_sha256": "ab" * 32, "expires_at": "2100-01-01T00:00:00Z"}
ANSWERS = [
    ("GET", "/healthz", None, {}),
    ("GET", "/readyz", None, {}),
    ("GET", "/readyz", None, {"readiness_answer": Readiness(ready=False, reason="x", message="y")}),
    ("GET", "/openapi.json", None, {}),
    ("GET", "/v1/group", None, {}),
    ("GET", "/v1/group", None, {"group_key": None}),
    ("GET", "/v1/members", None, {}),
    ("GET", "/v1/safe-to-stop", None, {}),
    ("GET", "/v1/safe-to-stop?member=node-b", None, {}),
    ("GET", "/v1/safe-to-stop?member=node-x", None, {}),
    ("POST", "/v1/members/transfer", {}, {}),
    ("POST", "/v1/members/transfer", {"target": "node-c"}, {}),
    ("POST", "/v1/members/transfer", {"target": "node-b"}, {"leading": None}),
    ("POST", "/v1/members/transfer", {}, {"end_with": Unknown("transfer-timeout")}),
    ("GET", "/v1/recovery", None, {}),
    ("POST", "/v1/recovery", {"log_end": {"term": 3, "index": 9, "chain": "ab" * 32}}, {}),
    (
        "POST",
        "/v1/recovery",
        {"log_end": {"term": 3, "index": 9, "chain": "ab" * 32}},
        {"end_with": NotExecuted("group-is-alive", ME)},
    ),
    ("DELETE", "/v1/members?member=node-b", None, {}),
    ("DELETE", "/v1/members?member=node-x", None, {}),
    ("DELETE", "/v1/members?member=node-b", None, {"end_with": NotExecuted("below-min-voters", ME)}),
    ("DELETE", "/v1/members?member=node-b", None, {"end_with": NotExecuted("not-leader", PEER)}),
    ("DELETE", "/v1/members?member=node-b", None, {"end_with": Unknown("leader-lost")}),
    ("GET", "/v1/bonds", None, {}),
    ("GET", "/v1/bonds", None, {"group_key": None, "bonded": []}),
    ("POST", "/v1/commands", PUT_BODY, {}),
    ("POST", "/v1/commands", PUT_BODY, {"end_with": AlreadyExecuted(Cursor(1, 2), bytes(32), 5000)}),
    ("POST", "/v1/commands", {"commands": [PUT_BODY["command"]]}, {}),
    ("POST", "/v1/commands", {**PUT_BODY, "wait": "accepted"}, {}),
    ("POST", "/v1/commands", {"command": {"op": "frob"}}, {}),
    ("POST", "/v1/commands", {"comand": 1}, {}),
    ("POST", "/v1/commands", PUT_BODY, {"end_with": NotExecuted("no-leader", ME)}),
    ("POST", "/v1/commands", PUT_BODY, {"end_with": NotExecuted("no-leader")}),
    ("POST", "/v1/commands", PUT_BODY, {"end_with": Unknown("deadline")}),
    ("POST", "/v1/queries", {"query": {"op": "get", "key": "a"}}, {}),
    ("POST", "/v1/queries", {"query": {"op": "frob"}}, {}),
    ("POST", "/v1/queries", {"query": 1}, {"end_with": Unknown("deadline")}),
    ("GET", "/v1/kv/{key}", None, {}),
    ("GET", "/v1/kv/{key}?revision=x", None, {}),
    ("GET", "/v1/kv/{key}", None, {"end_with": Unknown("deadline")}),
    ("PUT", "/v1/kv/{key}", {}, {}),
    ("PUT", "/v1/kv/{key}?lease=7", {}, {}),
    ("PUT", "/v1/kv/{key}", {}, {"end_with": AlreadyExecuted(Cursor(1, 2), bytes(32), 5000)}),
    ("PUT", "/v1/kv/{key}", {}, {"end_with": NotExecuted("no-leader")}),
    ("DELETE", "/v1/kv/{key}", None, {}),
    ("DELETE", "/v1/kv/{key}", None, {"end_with": Unknown("deadline")}),
    ("GET", "/v1/kv", None, {}),
    ("GET", "/v1/kv?limit=0", None, {}),
    ("DELETE", "/v1/kv", None, {}),
    ("DELETE", "/v1/kv?prefix=a", None, {}),
    ("GET", f"/v1/attestation/evidence?nonce={NONCE}", None, {}),
    ("GET", f"/v1/attestation/evidence?nonce={NONCE}", None, {"group_key": None}),
    ("GET", "/v1/attestation/evidence", None, {}),
    ("GET", "/v1/attestation/peers", None, {}),
    ("GET", "/v1/audit/events", None, {}),
    ("GET", "/v1/audit/events?limit=0", None, {}),
    ("GET", "/v1/audit/head", None, {}),
    ("GET", "/v1/birth-certificate", None, {}),
    ("PUT", "/v1/birth-certificate", {"birth_certificate": "q80="}, {}),
    ("GET", "/v1/access", None, {}),
    ("GET", "/v1/access?x=1", None, {}),
    ("POST", "/v1/access", NEW, {}),
    ("POST", "/v1/access", {**NEW, "name": "read"}, {}),
    ("POST", "/v1/access", {**NEW, "password": "secret"}, {}),
    ("POST", "/v1/access", {"name": "u", "roles": ["read"], "password": "secret"}, {}),
    ("POST", "/v1/access", NEW, {"end_with": Unknown("deadline")}),
    ("POST", "/v1/access", NEW, {"end_with": NotExecuted("no-leader")}),
    ("DELETE", "/v1/access?name=read", None, {}),
    ("DELETE", "/v1/access?name=admin", None, {}),
    ("DELETE", "/v1/access", None, {}),
    ("GET", "/v1/group", None, {"current": False}),
    ("PUT", "/v1/provision", {"group_key": "ab" * 32}, {"group_key": None}),
    ("PUT", "/v1/provision", {"group_key": "ab" * 32}, {}),
]


@pytest.mark.parametrize(("method", "path", "body", "service"), ANSWERS, ids=range(len(ANSWERS)))
def test_every_answer_is_as_published(method, path, body, service):
    reply = call(FakeService(**service), method, path, role=ADMIN, json_body=body)

    published(method, path, reply)


def test_the_validation_above_can_fail():
    schema = schema_for("GET", "/v1/group", 200, "application/json")
    answer = call(FakeService(), "GET", "/v1/group", role=ADMIN).json
    for spoilt in ({**answer, "leader": 7}, {k: v for k, v in answer.items() if k != "term"}):
        with pytest.raises(jsonschema.ValidationError):
            validate(spoilt, schema)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_has_an_answer_tried_above(operation):
    tried = {(method, path.partition("?")[0]) for method, path, _, _ in ANSWERS}

    assert (operation.method, operation.path) in tried or operation.name == "metrics"


def test_the_description_and_the_router_name_the_same_operations():
    app = create_app(FakeService(), ApiLimits())
    routed = {
        (method, route.path) for route in app._router.routes for method in route.methods if method != "HEAD"
    }
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}

    assert described == routed | {(method, path) for path in app._hot for method in METHODS[path]}
    assert not {path for _, path in routed} & app._hot.keys()


def test_every_reference_in_the_description_resolves():
    text = json.dumps(DOCUMENT)
    names = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}

    assert names <= set(DOCUMENT["components"]["schemas"])
    assert "Problem" in names


def test_request_schemas_are_as_strict_as_the_decoder():
    schema = DOCUMENT["paths"]["/v1/commands"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    whole = {**schema, "components": DOCUMENT["components"]}
    validate({"command": 1}, whole)
    for bad in ({"comand": 1}, {"commands": []}, {"command": 1, "wait": "x"}):
        with pytest.raises(jsonschema.ValidationError):
            validate(bad, whole)


TOKEN = {"name": "n", "roles": ["read"], "token_sha256": "0" * 64}
LOOSE = [
    ("POST", "/v1/commands", {"command": 1}, {"command": 1, "commands": [1]}),
    ("POST", "/v1/commands", {"commands": [1]}, {"wait": "accepted"}),
    (
        "POST",
        "/v1/queries",
        {"query": 1, "consistency": "weak", "max_age_ms": 5},
        {"query": 1, "max_age_ms": 5},
    ),
    (
        "POST",
        "/v1/queries",
        {"query": 1, "consistency": "strong", "max_age_ms": None},
        {"query": 1, "consistency": "strong", "max_age_ms": 5},
    ),
    ("POST", "/v1/access", TOKEN, {**TOKEN, "password": "x"}),
    ("POST", "/v1/access", TOKEN, {"name": "n", "roles": ["read"]}),
    ("PUT", "/v1/birth-certificate", {"birth_certificate": "YQ=="}, {"birth_certificate": "YQ"}),
]


@pytest.mark.parametrize(("method", "path", "good", "bad"), LOOSE, ids=range(len(LOOSE)))
def test_what_the_handlers_refuse_together_the_published_schemas_refuse_too(method, path, good, bad):
    """``command`` with ``commands``, and ``max_age_ms`` with ``strong``, were right by the document."""
    body = DOCUMENT["paths"][path][method.lower()]["requestBody"]["content"]["application/json"]["schema"]
    schema = {**body, "components": DOCUMENT["components"]}
    validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        validate(bad, schema)

    reply = call(FakeService(), method, path, role=ADMIN, json_body=bad)
    assert (reply.status, reply.json["code"]) == (422, "request-invalid")


def test_an_audit_cursor_beyond_the_published_maximum_is_refused_and_the_maximum_is_not():
    parameters = DOCUMENT["paths"]["/v1/audit/events"]["get"]["parameters"]
    (after,) = [one["schema"] for one in parameters if one["name"] == "after"]
    path = "/v1/audit/events?after={}"

    assert call(FakeService(), "GET", path.format(after["maximum"]), role=ADMIN).status == 200
    assert call(FakeService(), "GET", path.format(after["maximum"] + 1), role=ADMIN).status == 422


def test_a_method_that_a_path_does_not_have_is_405_whatever_else_is_wrong():
    headers = [("bondstone-cluster", "nonsense")]
    reply = call(FakeService(), "TRACE", "/v1/group", headers=headers)

    assert (reply.status, reply.headers["allow"]) == (405, "GET")
    reply = call(FakeService(), "GET", "/v1/group", headers=headers)
    assert (reply.status, reply.json["code"]) == (422, "request-invalid")


def test_every_code_of_the_catalogue_belongs_to_an_operation_or_to_all():
    used = {code for operation in OPERATIONS for code in problems_of(operation)}

    assert set(CATALOGUE) - used == {"not-found", "method-not-allowed"}  # of no operation


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_every_problem_is_a_published_problem(code):
    problem = ProblemError(code, "x")
    schema = {"$ref": "#/components/schemas/Problem", "components": DOCUMENT["components"]}
    validate(json.loads(problem.body()), schema)

    assert json.loads(problem.body())["status"] == CATALOGUE[code].status.value
    assert json.loads(problem.body())["type"] == f"urn:bondstone:problem:{code}"
