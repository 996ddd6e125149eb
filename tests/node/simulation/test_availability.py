"""The table in docs/consensus.md, row by row: with the defaults, what may fail, at once or one after another."""

import re
from pathlib import Path

import pytest

from node.simulation.scenario import Scenario

DOCUMENT = Path(__file__).parents[3] / "docs" / "consensus.md"
SIZES = (1, 2, 3, 4, 5, 6, 7)
WITH_TIE = (4, 6)


class Group:
    """``size`` founders with default settings; A leads."""

    def __init__(self, size: int) -> None:
        self.names = list("abcdefg"[:size])
        self.calls = 0
        self.scenario = Scenario()
        self.do(f"cluster {' '.join(self.names)} bootstrap={'init' if size == 1 else 'expect'}")
        self.do("wait leader")
        if size > 1:
            self.do("transfer a")
        self.do("wait leader a")

    def do(self, command: str) -> list[str]:
        return self.scenario.do(command)

    def kill(self, *names: str) -> None:
        for name in names:
            self.do(f"crash {name}")
            self.names.remove(name)

    def takes_writes(self) -> bool:
        """Whether a survivor takes a write within ten seconds, long enough to elect and to demote."""
        self.calls += 1
        self.do(f"put w{self.calls} {self.names[-1]} x={self.calls}")
        self.do("run 10s")
        (told,) = self.do(f"outcome w{self.calls}")
        return ": ok" in told


def table() -> dict[int, tuple[int, int]]:
    """By number of voters: how many may fail at once, and down to how many writes go on."""
    rows = re.findall(r"^\| (\d) \| (none|\d)[^|]*\| (\d) \|", DOCUMENT.read_text(), re.MULTILINE)
    return {int(n): (0 if at_once == "none" else int(at_once), int(down)) for n, at_once, down in rows}


def with_tie() -> dict[int, int]:
    """By even number of voters: how many may fail at once if the tie is among the others."""
    rows = re.findall(
        r"^\| (\d) \| \d \((\d), if the tie is among the others\) \|", DOCUMENT.read_text(), re.MULTILINE
    )
    return {int(n): int(at_once) for n, at_once in rows}


def test_the_document_has_a_row_for_each_size():
    assert tuple(table()) == SIZES
    assert tuple(with_tie()) == WITH_TIE


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("leader_too", [False, True], ids=["followers", "leader-too"])
def test_the_stated_number_may_fail_at_once_and_not_one_more(size, leader_too):
    at_once = table()[size][0]
    for failures, goes_on in ((at_once, True), (at_once + 1, False)):
        group = Group(size)
        victims = group.names[1:] if not leader_too else group.names[:-1]
        group.kill(*victims[:failures])

        assert group.takes_writes() is goes_on, failures


@pytest.mark.parametrize("size", SIZES[1:])
def test_one_after_another_writes_go_on_down_to_two_and_resume_with_a_second_if_there_is_a_tie(size):
    group = Group(size)
    down = table()[size][1]
    while len(group.names) > down:
        group.kill(group.names[0])
        assert group.takes_writes()
        group.do(f"wait voters {' '.join(group.names)}")
    leader = group.scenario.cluster.leader()
    assert leader is not None
    (other,) = [name for name in group.names if name != leader.place]

    group.kill(other)
    assert not group.takes_writes()

    group.do(f"boot {other}")
    group.names.insert(0, other)
    # The genesis of two has no tie: there the survivor elects nobody.
    assert group.takes_writes() is (size > 2)


@pytest.mark.parametrize("size", WITH_TIE)
def test_of_an_even_number_half_may_fail_at_once_if_the_tie_is_among_the_others(size):
    at_once = with_tie()[size]
    for failures, goes_on in ((at_once, True), (at_once + 1, False)):
        group = Group(size + 1)
        group.kill(group.names[-1])
        assert group.takes_writes()
        group.do(f"wait voters {' '.join(group.names)}")

        group.kill(*group.names[size - failures :])

        assert group.do("status")[0].endswith("tie a")
        assert group.takes_writes() is goes_on, failures


@pytest.mark.parametrize("size", WITH_TIE)
def test_of_an_even_number_of_founders_half_may_not_since_a_genesis_has_no_tie(size):
    group = Group(size)

    group.kill(*group.names[size - with_tie()[size] :])

    assert not group.takes_writes()


def test_a_group_of_one_takes_writes_and_its_data_ends_with_it():
    group = Group(1)

    assert group.takes_writes()
    group.do("crash a")
    assert group.scenario.cluster.alive() == []
