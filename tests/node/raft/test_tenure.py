"""What ends with a cluster is one value: after its end nothing of it is left, and nobody can forget a field."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest

import node.raft
from node.peers import BondLoss
from node.raft.tenure import Tenure
from tests.node.raft.cluster import inc
from tests.node.raft.test_founding import dissolving

# What outlives a cluster, or is asked again in the next one (``reads``, ``session``).
OUTLIVES = {
    *(
        "me",
        "group_id",
        "settings",
        "founding",
        "preference",
        "build",
        "features",
        "recovery",
    ),  # who this member is
    *("log", "credentials", "randrange", "make_system", "on_raised", "initial_state"),  # what it was given
    *("budget", "buffered", "freeing"),  # the node's own memory
    *("now", "wall", "out", "halted", "unpublished"),
    *("peers", "audience", "has_outsiders"),
    *("election_wait", "election_due"),
    *("online", "published_leader", "published_role", "published_outlook"),  # what it reported to the driver
    *("serial", "persisted", "released", "_batch_open"),  # how far its disk has come
    *("founding_state", "reads", "session", "signing", "sync"),
    "tenure",
}
OF_ITS_OWN = {"replica", "since_ms", "appended_ms"}  # a fresh tenure has them from its beginning


def ended(member):
    """Return the fields of the member's tenure in which it differs from a fresh one."""
    tenure = member.tenure
    fresh = Tenure(replica=tenure.replica, since_ms=tenure.since_ms, appended_ms=tenure.appended_ms)
    return {
        field.name for field in fields(Tenure) if getattr(tenure, field.name) != getattr(fresh, field.name)
    }


def test_nothing_of_a_cluster_is_left_when_it_ends():
    cluster, leader = dissolving()
    before = leader.tenure
    filled = ended(leader)
    cluster.drop = lambda *_: False
    cluster.run_until(lambda: leader.founding_state.dissolved)

    # It really was in a cluster: a reset that does nothing would be seen.
    assert {
        "cluster",
        "term",
        "commit",
        "configs",
        "members",
        "is_voter",
        "is_auto",
        "dissolve_index",
    } <= filled
    assert ended(leader) == set()
    assert leader.tenure is not before
    assert leader.replica is not before.replica
    assert leader.replica.applied.index == leader.log.last().index == 0
    assert leader.tenure.since_ms == leader.tenure.appended_ms == cluster.now


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ended_bonds", {inc("x"): BondLoss.EXPIRED}),
        ("grants", {inc("x")}),
        ("own_vote_serial", 7),
        ("quick_retry_until_ms", 10**12),
        ("log_time_rest", 55),
        ("covered_ms", 1),
        ("bound_ms", 10**12),
        ("replaced", {inc("x")}),
        ("parting_due", True),
    ],
)
def test_what_was_forgotten_once_ends_with_the_cluster(name, value):
    """Each of these outlived its cluster when the reset named every attribute by hand."""
    _, leader = dissolving()
    setattr(leader.tenure, name, value)
    leader._end_tenure()

    assert ended(leader) == set()


def test_every_other_attribute_of_a_member_is_known_to_outlive_its_cluster():
    """A new attribute belongs into ``Tenure``, or here with a reason."""
    _, leader = dissolving()

    assert set(vars(leader)) == OUTLIVES


def test_no_function_keeps_a_tenure_that_may_end_while_it_runs():
    """A local ``tenure`` in a function that reaches ``_end_tenure`` would be that of a dead cluster."""
    functions = [
        function
        for path in Path(node.raft.__path__[0]).glob("*.py")
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
    ]
    named = {}
    for function in functions:
        attributes = {item.attr for item in ast.walk(function) if isinstance(item, ast.Attribute)}
        named.setdefault(function.name, set()).update(attributes)
    ends = {"_end_tenure"}
    while more := {name for name, attributes in named.items() if attributes & ends} - ends:
        ends |= more
    keeps = {
        function.name
        for function in functions
        for item in ast.walk(function)
        if isinstance(item, ast.Assign) and any(getattr(to, "id", None) == "tenure" for to in item.targets)
    }

    assert {"_dissolve", "_settle", "step_many"} <= ends
    assert keeps
    assert not keeps & ends
