"""Whose events an audit log holds, and what a kept head shows."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enclave.identity import Identity
from node.audit import (
    AuditChainError,
    AuditHead,
    AuditLog,
    HeadGoneError,
    lines_of_log,
    verify_kept_untrusted,
)
from node.audit import life as life_module
from node.audit.chain import hash_of, line_of
from tests.support.cluster import cli

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ONE, TWO, STRANGER = (Identity.generate(name, NOW) for name in ("node-a", "node-a", "node-a"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def lived(path: Path, identity: Identity | None, count: int = 3) -> AuditHead:
    log = AuditLog(path, lambda: NOW, life=identity)
    for number in range(count):
        log.append("bond-refused", number=number)
    log.close()
    return log.head()


def events(path: Path) -> list:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def rewritten(path: Path, changed: list) -> None:
    """Write events as somebody who has the disk can: with numbers and hashes that fit."""
    prev = "00" * 32
    for seq, event in enumerate(changed, 1):
        event["seq"], event["prev"] = seq, prev
        event["hash"] = prev = hash_of(event)
    path.write_bytes(b"".join(line_of(event) for event in changed))


def test_the_first_event_of_each_life_is_signed_by_its_incarnation(path):
    lived(path, ONE)
    lived(path, TWO)
    chain = verify_kept_untrusted(lines_of_log(path))
    assert [(life.seq, life.peer_id) for life in chain.lives] == [
        (1, ONE.peer_id.hex()),
        (5, TWO.peer_id.hex()),
    ]


def test_a_broken_chain_is_reported_after_the_first_event_of_the_process_that_found_it(path):
    lived(path, ONE)
    path.write_bytes(path.read_bytes()[:-10])
    lived(path, TWO)
    kinds = [event["kind"] for event in events(path)]
    assert kinds[3:5] == ["life-begun", "audit-chain-broken"]
    assert len(verify_kept_untrusted(lines_of_log(path)).lives) == 2


def test_an_invented_log_is_unsigned_or_names_an_unknown_incarnation(path):
    lived(path, None)
    assert verify_kept_untrusted(lines_of_log(path)).lives == ()
    said = cli("audit", "verify", path).stdout
    assert "events 1 to 3: no signature covers where they begin" in said
    path.unlink()
    lived(path, STRANGER)
    assert f"incarnation {STRANGER.peer_id.hex()}" in cli("audit", "verify", path).stdout


FORGERIES = {
    "another-name": lambda event: event.update(name="node-b"),
    "another-peer-id": lambda event: event.update(peer_id=ONE.peer_id.hex()),
    "another-time": lambda event: event.update(at="2026-01-30T12:00:00.000000Z"),
    "no-signature": lambda event: event.pop("signature"),
    "bad-signature": lambda event: event.update(signature="00"),
    "odd-signature": lambda event: event.update(signature="é"),
    "no-key": lambda event: event.update(spki=""),
    "long-key": lambda event: event.update(spki="00" * 10_000),
    "number-key": lambda event: event.update(spki=1),
    "known-key-with-a-strangers-signature": lambda event: event.update(
        peer_id=ONE.peer_id.hex(), spki=ONE.spki_der.hex()
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_life_that_its_incarnation_has_not_signed_is_a_broken_chain(path, forgery):
    lived(path, STRANGER)
    changed = events(path)
    FORGERIES[forgery](changed[0])
    rewritten(path, changed)
    with pytest.raises(AuditChainError) as caught:
        verify_kept_untrusted(lines_of_log(path))
    assert caught.value.reason == "life-forged"


def test_a_signed_beginning_that_is_moved_elsewhere_is_not_signed_there(path):
    lived(path, ONE)
    lived(path, TWO)
    changed = events(path)
    rewritten(path, [changed[4], *changed[5:], *changed[:4]])
    with pytest.raises(AuditChainError) as caught:
        verify_kept_untrusted(lines_of_log(path))
    assert caught.value.reason == "life-forged"


def test_it_would_pass_if_signatures_were_not_checked(path, monkeypatch):
    lived(path, STRANGER)
    changed = events(path)
    FORGERIES["known-key-with-a-strangers-signature"](changed[0])
    rewritten(path, changed)
    monkeypatch.setattr(life_module, "is_der_signature_valid", lambda *_: True)
    assert verify_kept_untrusted(lines_of_log(path)).lives[0].peer_id == ONE.peer_id.hex()


def test_a_restarted_node_puts_a_forged_life_aside_and_does_not_serve_it(path):
    lived(path, STRANGER)
    changed = events(path)
    FORGERIES["known-key-with-a-strangers-signature"](changed[0])
    rewritten(path, changed)
    log = AuditLog(path, lambda: NOW, life=TWO)
    served = log.events()
    assert [event["kind"] for event in served] == ["life-begun", "audit-chain-broken"]
    assert served[0]["peer_id"] == TWO.peer_id.hex()
    assert served[1]["reason"] == "life-forged"
    log.close()


def test_an_emptied_file_is_a_broken_chain(path):
    lived(path, ONE)
    path.write_bytes(b"")
    done = cli("audit", "verify", path)
    assert (done.returncode, "[emptied]" in done.stdout) == (1, True)
    log = AuditLog(path, lambda: NOW, life=TWO)
    assert [event["kind"] for event in log.events()] == ["life-begun", "audit-chain-broken"]
    assert log.events()[1]["reason"] == "emptied"
    log.close()


# ---- a kept head -----------------------------------------------------------------------------------
def test_a_kept_head_that_is_in_the_log_is_found(path):
    kept = lived(path, ONE)
    lived(path, TWO)
    done = cli("audit", "verify", path, "--head", f"{kept.seq}:{kept.hash}")
    assert done.returncode == 0, done.stdout


def test_a_log_that_was_cut_rewritten_or_invented_does_not_contain_the_kept_head(path):
    kept = lived(path, ONE)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    cut = cli("audit", "verify", path, "--head", f"{kept.seq}:{kept.hash}")
    assert (cut.returncode, "[cut-off]" in cut.stdout) == (1, True)

    path.unlink()
    lived(path, STRANGER, count=5)
    invented = cli("audit", "verify", path, "--head", f"{kept.seq}:{kept.hash}")
    assert (invented.returncode, "[head-mismatch]" in invented.stdout) == (1, True)
    assert cli("audit", "verify", path).returncode == 0, "without the kept head nobody can tell"


def test_a_kept_head_whose_event_was_deleted_leaves_it_undecided():
    lines = [
        line_of(event)
        for event in [
            {"seq": 9, "at": "x", "kind": "audit-segment-deleted", "gone_to_seq": 8, "prev": "11" * 32},
        ]
        for event["hash"] in [hash_of(event)]
    ]
    with pytest.raises(HeadGoneError):
        verify_kept_untrusted(lines, kept=AuditHead(seq=7, hash="22" * 32))
    assert verify_kept_untrusted(lines, kept=AuditHead(seq=8, hash="11" * 32)).after.seq == 8
    with pytest.raises(AuditChainError, match="head-mismatch"):
        verify_kept_untrusted(lines, kept=AuditHead(seq=8, hash="22" * 32))


@pytest.mark.parametrize(
    "head", ["", "1", "0:" + "00" * 32, "x:" + "00" * 32, "1:" + "0" * 63, "1:" + "A" * 64, "²:" + "00" * 32]
)
def test_an_invalid_head_is_exit_code_2(path, head):
    lived(path, ONE)
    assert cli("audit", "verify", path, "--head", head).returncode == 2
