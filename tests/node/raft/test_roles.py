"""A role changes in one place, by a table: no leader is born without a campaign, and none stands again."""

import ast
import re
from itertools import product
from pathlib import Path

import pytest

import node.raft
from node.raft.state import MOVES, HaltError
from node.raft.types import Role
from tests.node.raft.cluster import three

ROOT = Path(__file__).parents[3]
ROLES = [role for role in Role if role is not Role.LEARNER]


@pytest.mark.parametrize(("before", "after"), list(product(ROLES, ROLES)), ids=lambda role: role.value)
def test_only_the_moves_of_the_table_are_possible(before, after):
    cluster = three()
    member = cluster.nodes[cluster.leader()]
    member.tenure.role, member.tenure.in_step = before, True
    if after in MOVES[before]:
        member._become(after, None)

        assert (member.role, member.leader, member.tenure.in_step) == (after, None, False)
    else:
        with pytest.raises(HaltError, match="impossible-role-change"):
            member._become(after, None)

        assert member.role is before


def test_the_table_is_the_diagram_of_the_design():
    page = (ROOT / "docs/design/consensus.md").read_text()
    diagram = page[page.index("stateDiagram-v2") : page.index("### 3.1")]
    names = {role.name.title().replace("_", ""): role for role in ROLES}
    drawn = {role: set() for role in ROLES}
    for before, after in re.findall(r"^ +(\w+) --> (\w+):", diagram, re.MULTILINE):
        if before in names and after in names:
            drawn[names[before]].add(names[after])

    # A follower stays one under another leader: no move worth an arrow.
    assert drawn == {role: set(moves) - ({role} & {Role.FOLLOWER}) for role, moves in MOVES.items()}


def test_no_other_code_assigns_a_role():
    assigning = []
    for path in sorted(Path(node.raft.__path__[0]).glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                stored = (n for n in ast.walk(function) if isinstance(n, ast.Attribute) and n.attr == "role")
                if any(isinstance(n.ctx, ast.Store) for n in stored):
                    assigning.append(function.name)

    assert assigning == ["_become"]
