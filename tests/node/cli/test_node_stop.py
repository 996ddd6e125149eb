"""``bondstone node stop --safe``: what the leader answers decides, and a leader hands over first."""

from types import SimpleNamespace

import pytest

from node.cli import node as node_cli
from node.cli.node import _make_safe


class Answers:
    """A group that gives these reasons, one after another; the last one for ever."""

    def __init__(self, *reasons):
        self.reasons = list(reasons)
        self.transfers = 0

    def safe_to_stop(self, member):
        assert member == "ab"
        reason = self.reasons.pop(0) if len(self.reasons) > 1 else self.reasons[0]
        verdict = {"": "safe", "not-known": "unknown"}.get(reason, "unsafe")
        return SimpleNamespace(verdict=verdict, reason=reason, message="m")

    def transfer_leadership(self):
        self.transfers += 1


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Let time pass only where the command sleeps."""
    now = [0.0]
    passes = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))
    monkeypatch.setattr(node_cli, "time", passes)
    return now


@pytest.mark.parametrize(
    ("reasons", "wait", "reason", "transfers"),
    [
        (("",), 0, "", 0),
        (("would-lose-quorum",), 0, "would-lose-quorum", 0),
        (("would-lose-quorum", "change-pending", ""), 0, "would-lose-quorum", 0),
        (("would-lose-quorum", "change-pending", ""), 5, "", 0),
        (("not-known",), 2, "not-known", 0),
        (("leads", "leader-is-new", ""), 0, "", 1),
        (("leads", "learner-not-voter"), 0, "learner-not-voter", 1),
        (("leads",), 0, "leads", 1),
    ],
)
def test_the_last_verdict_decides_after_the_wait_and_after_a_hand_over(reasons, wait, reason, transfers):
    group = Answers(*reasons)

    assert _make_safe(group, "ab", wait).reason == reason
    assert group.transfers == transfers


def test_the_wait_is_bounded(clock):
    _make_safe(Answers("would-lose-quorum"), "ab", 7)

    assert 7 <= clock[0] < 8
