"""The authority's approval of a recovery: of exactly this one, by enough of its keys, and by nobody else."""

from dataclasses import replace

import pytest

from attestation.encoding.canonical import encode
from node.authority import AuthorityError, AuthorityKey, authority_of, new_private_key_pem, spki_of
from node.raft.succession import Predecessor, predecessor_untrusted, recovery_statement
from node.raft.types import Position
from node.survivor import APPROVAL_BYTES_MAX, SurvivorRecovery, approve

KEYS = [new_private_key_pem()[0] for _ in range(3)]
AUTHORITY = authority_of(2, [AuthorityKey.of(f"k{i}", spki_of(key)) for i, key in enumerate(KEYS)])
GROUP, SURVIVOR = bytes(32), bytes([1]) * 32
LOST = Predecessor(cluster=bytes([2]) * 32, position=Position(7, 90, bytes([3]) * 32), jump=5, approval=b"")
STATEMENT = recovery_statement(GROUP, LOST, SURVIVOR)
RULE = SurvivorRecovery(AUTHORITY)


def test_enough_keys_approve_this_recovery_and_no_other():
    approval = approve(STATEMENT, AUTHORITY, KEYS[:2])
    others = [
        recovery_statement(bytes([9]) * 32, LOST, SURVIVOR),
        recovery_statement(GROUP, LOST, bytes([9]) * 32),
        recovery_statement(GROUP, replace(LOST, cluster=bytes([9]) * 32), SURVIVOR),
        *(
            recovery_statement(GROUP, replace(LOST, position=position), SURVIVOR)
            for position in (
                Position(8, 90, bytes([3]) * 32),
                Position((1 << 32) + 7, 90, bytes([3]) * 32),
                Position(7, 91, bytes([3]) * 32),
                Position(7, 90, bytes([4]) * 32),
            )
        ),
    ]

    assert RULE.permits(STATEMENT, approval)
    assert not any(RULE.permits(other, approval) for other in others)


def test_too_few_or_strange_keys_approve_nothing():
    with pytest.raises(AuthorityError):
        approve(STATEMENT, AUTHORITY, KEYS[:1])
    with pytest.raises(AuthorityError):
        approve(STATEMENT, AUTHORITY, [KEYS[0], new_private_key_pem()[0]])


@pytest.mark.parametrize(
    "approval",
    [
        b"",
        b"\xff",
        encode([]),
        encode([["k0", b"x"]]),
        encode({"k": 1}),
        encode([[1, 2]]),
        bytes(APPROVAL_BYTES_MAX + 1),
    ],
)
def test_what_is_no_approval_permits_nothing(approval):
    assert not RULE.permits(STATEMENT, approval)


def test_a_group_without_an_authority_takes_no_approval():
    assert SurvivorRecovery(None).permits(STATEMENT, b"")
    assert not SurvivorRecovery(None).permits(STATEMENT, approve(STATEMENT, AUTHORITY, KEYS[:2]))


def test_a_predecessor_is_read_as_it_was_written_and_a_malformed_one_is_refused():
    assert predecessor_untrusted(LOST.to_value()) == LOST
    for at, wrong in enumerate([b"", [0, 1, bytes(32)], -1, "quorum", b"x" * 4097]):
        value = LOST.to_value()
        value[at] = wrong
        with pytest.raises(Exception, match="malformed"):
            predecessor_untrusted(value)
