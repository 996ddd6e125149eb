"""Several parts as one system state."""

import pytest

from node.machines.base import ApplyContext, CommandError
from node.machines.counter import Counter
from node.machines.system import CombinedSystem, EmptySystem, RequestKind, SystemPart, name_of

CONTEXT = ApplyContext(1, 1, 0, 0, bytes(32))


class Numbers(SystemPart):
    def __init__(self, part, refuses=None):
        self._part, self._refuses, self.value = part, refuses, 0

    @property
    def part(self):
        return self._part

    @property
    def names(self):
        return frozenset({f"{self._part}-add"})

    def judge(self, credential, request, value, *, now_ms, machine):
        if credential == self._refuses:
            raise CommandError("not-permitted", f"{self._part} does not let it")

    def apply(self, command, context):
        self.value += command[1]
        if self.value > 9:
            raise CommandError("too-large", "at most 9")
        return self.value

    def query(self, query):
        return self.value

    def snapshot(self):
        return self.value

    def restore(self, snapshot):
        self.value = snapshot


def test_each_command_goes_to_the_part_that_has_its_name():
    both = CombinedSystem(Numbers("b"), Numbers("a"))
    assert both.apply(["a-add", 2], CONTEXT) == 2
    assert both.apply(["b-add", 3], CONTEXT) == 3

    assert both.snapshot() == {"a": 2, "b": 3}
    assert both.query(["b-add"]) == 3
    assert both["a"].value == 2


def test_parts_go_back_and_come_again_together():
    both = CombinedSystem(Numbers("a"), Numbers("b"))
    point, empty = both.savepoint(), both.digest()
    both.apply(["a-add", 2], CONTEXT)
    both.apply(["b-add", 3], CONTEXT)
    kept, full = both.snapshot(), both.digest()
    both.rollback(point)
    assert both.digest() == empty != full

    both.restore(kept)
    assert both.digest() == full
    with pytest.raises(ValueError, match="other parts"):
        both.restore({"a": 1})


def test_every_part_judges_everything():
    both = CombinedSystem(Numbers("a", refuses=b"x"), Numbers("b", refuses=b"y"))
    both.judge(b"z", RequestKind.COMMAND, 1, now_ms=0, machine=Counter())
    for refused in (b"x", b"y"):
        with pytest.raises(CommandError, match="does not let it"):
            both.judge(refused, RequestKind.QUERY, ["a-add"], now_ms=0, machine=Counter())


@pytest.mark.parametrize("parts", [("a", "a"), ("a", "a-")])
def test_parts_with_a_name_in_common_are_refused(parts):
    class Greedy(Numbers):
        names = frozenset({"a-add"})

    with pytest.raises(ValueError, match="in common"):
        CombinedSystem(*(Greedy(part) for part in parts))


@pytest.mark.parametrize("state", [EmptySystem(), CombinedSystem(Numbers("a"))])
@pytest.mark.parametrize(
    ("value", "code"),
    [
        (["nobody-knows"], "system-command-unknown"),
        ([], "not-a-system-command"),
        ([1], "not-a-system-command"),
        ("a-add", "not-a-system-command"),
        ({"op": "a-add"}, "not-a-system-command"),
        (None, "not-a-system-command"),
    ],
)
def test_what_no_part_knows_is_refused_by_name(state, value, code):
    with pytest.raises(CommandError) as refused:
        state.apply(value, CONTEXT)
    assert refused.value.code == code
    with pytest.raises(CommandError) as refused:
        state.query(value)
    assert refused.value.code == code


def test_a_name_is_the_first_item():
    assert name_of(("tcb-seen", 1)) == "tcb-seen"
