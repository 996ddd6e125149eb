"""The group's authority in the system state: the first one stays, and its key comes out nowhere."""

from datetime import UTC, datetime
from typing import Any

import pytest

from attestation.encoding.canonical import encode
from node.ca.certificates import CertificateAuthority, digest_of
from node.ca.names import PermittedNames
from node.machines.base import ApplyContext, CommandError
from node.machines.counter import Counter
from node.machines.system import CombinedSystem, EmptySystem, RequestKind
from node.system.ca import CERTIFICATE_BYTES_MAX, FOUND, SHOW, CaState, ca_of, command_of
from node.system.tcb import TcbState

CONTEXT = ApplyContext(term=1, index=1, sub=0, time_ms=0, group_id=bytes(32))
ONE, OTHER = (
    CertificateAuthority.generate(b"g" * 32, PermittedNames.of(["localhost"]), datetime.now(UTC))
    for _ in range(2)
)


def holding(authority: CertificateAuthority = ONE) -> CaState:
    state = CaState()
    state.apply(command_of(authority), CONTEXT)
    return state


def test_the_first_authority_stays_and_later_ones_learn_which_it_is():
    state = CaState()
    assert state.certificate is None
    assert state.authority() is None
    assert state.apply(command_of(ONE), CONTEXT) == digest_of(ONE.certificate_der)
    assert state.apply(command_of(OTHER), CONTEXT) == digest_of(ONE.certificate_der)

    assert state.certificate == ONE.certificate_der
    held = state.authority()
    assert held is not None
    assert held.key_bytes == ONE.key_bytes


def test_a_caller_may_not_make_it_whatever_its_role():
    judged: dict[str, Any] = {"now_ms": 0, "machine": Counter()}
    CaState().judge(None, RequestKind.SYSTEM_COMMAND, command_of(ONE), **judged)
    with pytest.raises(CommandError) as caught:
        CaState().judge(b"c" * 32, RequestKind.SYSTEM_COMMAND, command_of(ONE), **judged)
    assert caught.value.code == "not-permitted"


def test_no_query_and_no_result_gives_the_key():
    state = CaState()
    answers = [state.apply(command_of(ONE), CONTEXT), state.apply(command_of(ONE), CONTEXT)]
    system = CombinedSystem(state, TcbState())
    answers += [system.query([SHOW]), system.digest(), repr(state).encode(), str(vars(system)).encode()]
    for query in ([SHOW, "key"], [SHOW, 1], [FOUND], ["ca"], [SHOW + "-key"]):
        with pytest.raises(CommandError) as caught:
            system.query(query)
        answers.append(caught.value.message.encode())
    assert system.query([SHOW]) == ONE.certificate_der
    for answer in answers:
        assert ONE.key_bytes not in encode(answer)


def test_what_a_malformed_command_holds_is_not_repeated_in_the_refusal():
    with pytest.raises(CommandError) as caught:
        CaState().apply([FOUND, ONE.certificate_der, ONE.key_bytes, "more"], CONTEXT)
    assert caught.value.code == "system-command-malformed"
    assert ONE.key_bytes.hex() not in caught.value.message
    assert repr(ONE.key_bytes)[2:-1] not in caught.value.message


@pytest.mark.parametrize(
    "snapshot",
    [[], [b"c"], [b"", b"k" * 32], [b"c", b"k"], [bytes(CERTIFICATE_BYTES_MAX + 1), b"k" * 32], {}, 7, "x"],
)
def test_what_is_no_snapshot_of_it_is_refused_and_changes_nothing(snapshot):
    state = holding()
    with pytest.raises(ValueError, match="not a snapshot"):
        state.restore(snapshot)
    assert state.certificate == ONE.certificate_der


def test_the_same_state_has_the_same_authority():
    """So it survives a restart with a kept log, and the recovery by a survivor."""
    system, other = CombinedSystem(holding(), TcbState()), CombinedSystem(CaState(), TcbState())
    other.restore(system.snapshot())
    assert ca_of(other).certificate == ONE.certificate_der
    assert other.digest() == system.digest()
    other.restore(CombinedSystem(CaState(), TcbState()).snapshot())
    assert ca_of(other).certificate is None


def test_without_an_authority_the_state_is_that_of_releases_that_do_not_know_it():
    old, new = CombinedSystem(TcbState()), CombinedSystem(TcbState(), CaState())
    assert new.snapshot() == old.snapshot()
    assert new.digest() == old.digest()
    new.restore(old.snapshot())
    with pytest.raises(ValueError, match="other parts"):
        old.restore(CombinedSystem(TcbState(), holding()).snapshot())


def test_a_snapshot_without_a_part_of_the_first_level_is_refused():
    with pytest.raises(ValueError, match="other parts"):
        CombinedSystem(TcbState(), CaState()).restore({"ca": None})


def test_an_undone_entry_leaves_no_authority():
    state = CaState()
    savepoint = state.savepoint()
    state.apply(command_of(ONE), CONTEXT)
    state.rollback(savepoint)
    assert state.certificate is None


def test_a_program_that_gave_other_parts_has_none():
    with pytest.raises(AssertionError):
        ca_of(EmptySystem())
