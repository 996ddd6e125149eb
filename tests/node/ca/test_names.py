"""Which names the group document's list permits."""

import pytest

from node.ca.names import NameNotPermittedError, PermittedNames

LISTED = PermittedNames.of(["*.group.internal", "10.0.0.0/8", "10.9.0.7/32", "fd00::/8", "group.internal"])


@pytest.mark.parametrize(
    "name",
    [
        "group.internal",
        "GROUP.internal",
        "a.group.internal",
        "*.group.internal",
        "10.255.0.1",
        "fd00::1",
        "FD12:0::1",
    ],
)
def test_a_name_of_the_list_is_permitted(name):
    assert LISTED.permits(name)
    assert LISTED.require(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "internal",
        "a.b.group.internal",
        "*.a.group.internal",
        "*.*.group.internal",
        "xgroup.internal",
        "group.internal.evil.example",
        "group.internal.",
        ".group.internal.x",
        "11.0.0.1",
        "fe80::1",
        "::ffff:10.0.0.1",
        "10.0.0.0/8",
        "",
        "*",
    ],
)
def test_any_other_name_is_refused(name):
    assert not LISTED.permits(name)
    with pytest.raises(NameNotPermittedError):
        LISTED.require(name)


def test_without_names_nothing_is_permitted_and_there_is_no_authority():
    assert not PermittedNames.of([])
    assert not PermittedNames.of([]).permits("localhost")
    assert LISTED
