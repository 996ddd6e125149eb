"""A member is removed by name or peer id; what the group cannot spare is refused with a reason and a sentence."""

from dataclasses import replace

import pytest

from node.raft.types import NotExecuted, Unknown
from node.tokens import AccessRole
from tests.node.api.fakes import CONFIG, ME, OTHER, PEER, FakeService, call


def removed(member, **changed):
    service = FakeService(**changed)
    reply = call(service, "DELETE", f"/v1/members?member={member}", role=AccessRole.ADMIN)
    return reply, service.noted


@pytest.mark.parametrize("text", ["node-b", PEER.id.hex()])
def test_a_member_is_removed_by_its_name_or_its_peer_id(text):
    reply, asked = removed(text)

    assert reply.json == {"member": {"name": "node-b", "peer_id": PEER.id.hex()}}
    assert asked == [("admin", "node-b")]


def test_a_repetition_finds_the_member_that_is_removed_already():
    config = replace(CONFIG, removed=(OTHER,))
    reply, asked = removed(OTHER.id.hex(), configs=(config,))

    assert reply.json["member"]["peer_id"] == OTHER.id.hex()
    assert asked == [("admin", "node-c")]


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("below-min-voters", "without node-b fewer than 2 voters (min_voters) would be left"),
        ("would-lose-quorum", "without node-b the voters that answer would be no quorum"),
        ("too-few-copies", "without node-b too few members answer to hold what is written"),
        ("feature-level-too-low", "the group's feature level has no removals yet: upgrade every node first"),
        ("no-such-member", "node-b is no member any more, and is not connected with the leader"),
    ],
)
def test_what_the_group_cannot_spare_is_refused_with_its_reason(reason, sentence):
    reply, _ = removed("node-b", end_with=NotExecuted(reason, ME))

    assert (reply.status, reply.json["code"], reply.json["reason"]) == (409, "removal-refused", reason)
    assert reply.json["detail"] == sentence


@pytest.mark.parametrize("reason", ["not-leader", "leader-is-new", "change-pending", "transferring"])
def test_what_only_the_leader_can_do_or_only_later_can_be_asked_again(reason):
    reply, _ = removed("node-b", end_with=NotExecuted(reason, PEER))

    assert (reply.status, reply.json["code"], reply.json["reason"]) == (503, "not-executed", reason)


def test_a_removal_whose_outcome_is_not_known_is_reported_so():
    reply, _ = removed("node-b", end_with=Unknown("leader-lost"))

    assert (reply.status, reply.json["code"]) == (504, "outcome-unknown")


@pytest.mark.parametrize("query", ["?member=node-x", "", "?member=node-b&x=1"])
def test_a_removal_of_nobody_is_a_mistake_of_the_caller(query):
    reply = call(FakeService(), "DELETE", f"/v1/members{query}", role=AccessRole.ADMIN)

    assert (reply.status, reply.json["code"]) == (422, "request-invalid")
