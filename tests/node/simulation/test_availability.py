"""The table in docs/consensus.md, row by row: with the defaults, what may fail, at once or one after another."""

import re
from itertools import permutations
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

    def leader(self) -> str:
        leader = self.scenario.cluster.leader()
        assert leader is not None
        return leader.place

    def follower(self) -> str:
        return next(name for name in self.names if name != self.leader())

    def tie(self) -> str | None:
        """Return the place of the voter that breaks ties, of the configuration that the leader's log ends with."""
        leader = self.scenario.cluster.leader()
        assert leader is not None
        tie = leader.view.configs[-1][1].tie
        return None if tie is None else tie.name

    def takes_writes(self) -> bool:
        """Whether a survivor takes a write within ten seconds, long enough to elect and to demote."""
        self.calls += 1
        self.do(f"put w{self.calls} {self.names[-1]} x={self.calls}")
        self.do("run 10s")
        (told,) = self.do(f"outcome w{self.calls}")
        if "(stale)" in told:
            return (
                self.takes_writes()
            )  # it was away, and did not know the log's time yet: the client tries again
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
@pytest.mark.parametrize("leader_too", [False, True], ids=["followers", "leader-too"])
def test_one_after_another_writes_go_on_down_to_two_and_resume_with_a_second_if_the_tie_lives(
    size, leader_too
):
    group = Group(size)
    down = table()[size][1]
    while len(group.names) > down:
        group.kill(group.leader() if leader_too else group.follower())
        assert group.takes_writes()
        # Of three one is given up only after a minute.
        group.do(f"wait voters {' '.join(group.names)} within 90s")
    victim = group.leader() if leader_too else group.follower()
    tie = group.tie()

    group.kill(victim)
    assert not group.takes_writes()

    group.do(f"boot {victim}")
    group.names.insert(0, victim)
    # The genesis of two has no tie: there the survivor elects nobody, as where the tie is dead.
    assert (tie is None) is (size == 2)
    assert group.takes_writes() is (tie is not None and tie != victim)


@pytest.mark.parametrize(("first", "second"), list(permutations("abc", 2)))
@pytest.mark.parametrize("back", [True, False], ids=["back", "given-up"])
def test_of_three_any_two_go_on_when_a_third_was_cut_off_and_another_dies(first, second, back):
    """Schedule 26b. Who is back within a minute has kept its vote; after that only the other two have one."""
    group = Group(3)
    rest = [name for name in "abc" if name != first]
    group.do(f"cut {first} | {' '.join(rest)}")
    group.names.remove(first)
    assert group.takes_writes()
    if not back:
        group.do(f"wait voters {' '.join(rest)} within 90s")
    tie = group.tie()
    group.do("heal" if back else "run 1s")
    group.do("run 100ms")
    if back:
        group.names.append(first)
        group.names.sort()

    group.kill(second)

    # Where the third was given up, the survivor waits for it, and can take it in only as the tie.
    assert group.takes_writes() is back
    group.do("heal")
    assert group.takes_writes() is (back or tie != second)


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
