"""A survivor shows from where it would go on, and founds a new generation only for the position that is repeated."""

import base64

import pytest

from node.api.recovery import _WHY
from node.raft.types import NotExecuted, Unknown
from node.tokens import AccessRole
from tests.node.api.fakes import LOG_END, ME, FakeService, call

END = {"term": LOG_END.term, "index": LOG_END.index, "chain": LOG_END.chain.hex()}


def asked(body, **changed):
    service = FakeService(**changed)
    return call(service, "POST", "/v1/recovery", role=AccessRole.ADMIN, json_body=body), service.noted


def test_what_the_survivor_holds_is_shown():
    shown = call(FakeService(), "GET", "/v1/recovery", role=AccessRole.ADMIN).json

    assert shown["log_end"] == END
    assert (shown["authorized"], shown["needs_approval"], shown["votes"]) == (True, False, True)
    assert shown["member"]["name"] == "node-a"


def test_the_position_and_the_approval_are_handed_on():
    approval = base64.b64encode(b"signed").decode()
    reply, noted = asked({"log_end": END, "approval": approval})

    assert reply.status == 200
    assert noted == [("admin", LOG_END, b"signed")]
    assert asked({"log_end": END})[1] == [("admin", LOG_END, b"")]


@pytest.mark.parametrize("reason", sorted(_WHY))
def test_a_refusal_has_its_reason_and_one_sentence(reason):
    reply, _ = asked({"log_end": END}, end_with=NotExecuted(reason, ME))

    assert (reply.status, reply.json["code"], reply.json["reason"]) == (409, "recovery-refused", reason)
    assert reply.json["detail"] == _WHY[reason]


def test_an_outcome_that_is_not_known_is_reported_so():
    assert asked({"log_end": END}, end_with=Unknown("halted"))[0].json["code"] == "outcome-unknown"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"log_end": {**END, "chain": "xy"}},
        {"log_end": END, "approval": "?"},
        {"log_end": {**END, "index": -1}},
    ],
)
def test_a_malformed_request_changes_nothing(body):
    reply, noted = asked(body)

    assert (reply.status, reply.json["code"], noted) == (422, "request-invalid", [])
