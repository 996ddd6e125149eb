"""A member can stop only if the leader knows that the rest goes on; what cannot be known is not safe."""

from dataclasses import replace

import pytest

from node.api.stopping import judge_stop
from node.peers import Incarnation
from node.raft.quorum import Config
from node.tokens import AccessRole
from tests.node.api.fakes import CONFIG, LEADING, ME, OTHER, PEER, FakeService, call

THREE = Config(epoch=3, voters=(ME, PEER, OTHER), tie=None, reason="promote node-c")
HEALTHY = {"configs": (THREE,), "electable": (ME, PEER, OTHER), "max_voters": 3}


def view(**changed):
    learners = changed.pop("learners", ())
    seen = FakeService(**{**HEALTHY, **changed}).group()
    return replace(seen, status=replace(seen.status, learners=learners))


def asked(member, **changed):
    return call(
        FakeService(**{**HEALTHY, **changed}), "GET", f"/v1/safe-to-stop{member}", role=AccessRole.READ
    )


def test_a_voter_can_stop_if_the_others_are_a_quorum_that_has_caught_up():
    assert judge_stop(view(), PEER).reason == ""
    assert judge_stop(view(), OTHER).reason == ""
    assert asked("?member=node-b").json == {
        "member": {"name": "node-b", "peer_id": PEER.id.hex()},
        "verdict": "safe",
        "reason": "",
        "message": "",
        "leader": {"name": "node-a", "peer_id": ME.id.hex()},
    }


@pytest.mark.parametrize(
    ("changed", "reason", "text"),
    [
        ({"leading": None}, "not-known", "ask node-a, which leads"),
        ({"leading": replace(LEADING, transferring=True)}, "transfer-pending", "wait"),
        ({"leading": replace(LEADING, established=False)}, "leader-is-new", "wait"),
        ({"configs": (CONFIG, THREE)}, "change-pending", "promote node-c"),
        ({"leading": replace(LEADING, in_step=(ME, PEER))}, "would-lose-quorum", "only 1 of 3 voters"),
        (
            {"configs": (CONFIG,), "learners": (OTHER,), "max_voters": 3},
            "learner-not-voter",
            "on the way to become a voter: node-c",
        ),
        ({"configs": (CONFIG,), "leading": replace(LEADING, in_step=(ME, PEER))}, "too-few-copies", "only 1 of 2"),
        ({"halted": "state-diverged"}, "not-known", "only a leader knows"),
    ],
)  # fmt: skip
def test_a_voter_cannot_stop_and_the_reason_is_named(changed, reason, text):
    verdict = judge_stop(view(**changed), PEER)

    assert verdict.reason == reason
    assert text in verdict.message


def test_a_leader_hands_over_before_it_stops():
    assert judge_stop(view(), ME).reason == "leads"


def test_a_connected_voter_that_lags_does_not_count_for_the_rest():
    lagging = replace(LEADING, responsive=(ME, PEER, OTHER), in_step=(ME, PEER))

    assert judge_stop(view(leading=lagging), PEER).reason == "would-lose-quorum"
    assert judge_stop(view(leading=lagging), OTHER).reason == ""


def test_the_restarted_node_of_a_missing_voter_is_awaited_though_there_is_no_room_for_more_voters():
    back = Incarnation("node-c", bytes([4]) * 32)
    leading = replace(LEADING, responsive=(ME, PEER, back), in_step=(ME, PEER, back), copies_needed=1)
    tie = replace(THREE, voters=(ME, OTHER), tie=ME)
    seen = view(configs=(tie,), leading=leading, learners=(back,), electable=(ME, back), max_voters=2)

    assert judge_stop(seen, OTHER).reason == "learner-not-voter"


def test_a_learner_can_stop_while_another_learner_catches_up():
    leading = replace(LEADING, in_step=(ME, PEER))

    assert judge_stop(view(configs=(CONFIG,), leading=leading, learners=(OTHER,)), OTHER).reason == ""


def test_an_observer_is_not_awaited():
    watching = view(configs=(CONFIG,), learners=(OTHER,), electable=(ME, PEER), max_voters=3)

    assert judge_stop(watching, PEER).reason == ""


def test_a_node_is_asked_about_itself_unless_another_is_named():
    assert asked("").json["member"]["name"] == "node-a"
    assert asked(f"?member={OTHER.id.hex()}").json["member"]["name"] == "node-c"


def test_a_name_that_fits_no_member_or_several_is_refused():
    back = Incarnation("node-b", bytes([4]) * 32)
    two = replace(THREE, voters=(ME, PEER, back))

    assert "no such member" in asked("?member=node-x").json["detail"]
    several = asked("?member=node-b", configs=(two,))
    assert (several.status, several.json["code"]) == (422, "request-invalid")
    assert PEER.id.hex() in several.json["detail"]
