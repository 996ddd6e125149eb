"""The leadership is handed over only to a voter that is connected and has caught up, and only once."""

from dataclasses import replace

import pytest

from node.raft.quorum import Config
from node.raft.types import NotExecuted
from node.tokens import AccessRole
from tests.node.api.fakes import CONFIG, LEADING, ME, OTHER, PEER, FakeService, call

THREE = Config(epoch=3, voters=(ME, PEER, OTHER), tie=None, reason="promote node-c")
HEALTHY = {"configs": (THREE,), "electable": (ME, PEER, OTHER), "max_voters": 3}


def transferred(body, **changed):
    service = FakeService(**{**HEALTHY, **changed})
    reply = call(service, "POST", "/v1/members/transfer", role=AccessRole.ADMIN, json_body=body)
    return reply, service.noted


def test_the_leadership_goes_to_the_member_that_is_named():
    reply, asked = transferred({"target": "node-c"})

    assert reply.json == {"leader": {"name": "node-c", "peer_id": OTHER.id.hex()}}
    assert asked == [("admin", "node-c")]


def test_without_a_name_it_goes_to_the_voter_that_is_furthest():
    assert transferred({}, leading=replace(LEADING, in_step=(ME, OTHER)))[1] == [("admin", "node-c")]
    assert transferred({}, index=5)[1] == [("admin", "node-b")]


@pytest.mark.parametrize(
    ("target", "changed", "reason"),
    [
        ("node-c", {"configs": (CONFIG,)}, "no-voter"),
        ("node-b", {"leading": replace(LEADING, responsive=(ME,), in_step=(ME,))}, "not-connected"),
        ("node-b", {"electable": (ME, OTHER)}, "observer"),
        ("node-b", {"leading": replace(LEADING, in_step=(ME,))}, "lagging"),
        (None, {"leading": replace(LEADING, in_step=(ME,))}, "no-successor"),
    ],
)
def test_a_member_that_cannot_succeed_is_refused_beforehand(target, changed, reason):
    reply, asked = transferred({"target": target}, **changed)

    assert (reply.status, reply.json["code"], reply.json["reason"]) == (409, "transfer-refused", reason)
    assert asked == []


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"leading": None}, "not-leader"),
        ({"leading": replace(LEADING, established=False)}, "leader-is-new"),
        ({"configs": (CONFIG, THREE)}, "change-pending"),
        ({"end_with": NotExecuted("transferring", ME)}, "transferring"),
    ],
)
def test_what_only_the_leader_can_do_or_only_later_can_be_asked_again(changed, reason):
    reply, _ = transferred({"target": "node-b"}, **changed)

    assert (reply.status, reply.json["code"], reply.json["reason"]) == (503, "not-executed", reason)


def test_a_repetition_that_reaches_the_new_leader_hands_over_nothing():
    for body in ({"leader": PEER.id.hex()}, {"target": "node-a"}):
        reply, asked = transferred(body)

        assert (reply.json["leader"]["name"], asked) == ("node-a", [])

    reply, asked = transferred({"target": "node-c", "leader": PEER.id.hex()})
    assert (reply.json["reason"], asked) == ("leader-changed", [])
