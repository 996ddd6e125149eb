"""Every part of the system state still does what the feature level stands for.

Its commands are in the log, so members of two releases at one level must come to the same state. REWRITE=1
records a part that has no file for the level of this release yet.
"""

import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from attestation.encoding.canonical import decode_untrusted, encode
from attestation.tickets.protocol import Cluster
from node.authority import AuthorityKey, authority_of, sign, spki_of
from node.features import Features
from node.machines.base import ApplyContext, CommandError
from node.system import ca
from node.system.access import AccessState
from node.system.birth import CONFIRM, BirthCertificate, BirthState, first_statement, next_statement
from node.system.forms import encode_grant
from node.system.grants import AccessRole, CredentialKind, Grant
from node.system.tcb import SEEN, TcbState

FILES = Path(__file__).parent / "transcripts"
LEVEL = Features().high
GROUP = b"g" * 32
TIME_MS = 1_700_000_000_000
STRANGE = [None, 7, [], {}, ["x"], ["x", {}], "access-new", [None, None]]


def token(name, *roles, **more):
    return Grant(
        name=name,
        kind=CredentialKind.TOKEN,
        credential=name.encode().ljust(32, b"."),
        roles=tuple(map(AccessRole, roles)),
        **more,
    )


ROOT = token("root", "admin")
KEYS = {kid: ed25519.Ed25519PrivateKey.from_private_bytes(kid.encode() * 16) for kid in ("k1", "k2")}


def access_commands():
    good = [
        token("reader", "read"),
        token("writer", "write", prefixes=(b"app/", b"\xff")),
        token("soon", "read", "write", expires_ms=TIME_MS + 4000),
        token("over", "read", expires_ms=TIME_MS),
        token("auditor", "audit"),
        token("second", "admin"),
    ]
    forms = [encode_grant(grant) for grant in good]
    forms += [forms[0], {**forms[0], "name": "other"}, {**forms[0], "name": ""}, {**forms[0], "kind": "x"}]
    forms += [{**forms[0], "roles": []}, {**forms[0], "more": 1}, {**forms[0], "credential": b"short"}]
    revoked = [
        {"name": "reader"},
        {"name": "reader"},
        {"credential": good[1].credential},
        {"name": "soon", "credential": good[2].credential},
        {"name": "second", "force": 1},
        {"name": "root", "more": 1},
        {"name": "root"},
        {"name": "second"},
        {"name": "second", "force": True},
        {},
    ]
    return [["access-new", form] for form in forms] + [["access-revoke", which] for which in revoked]


def signed(statement, *kids):
    return BirthCertificate(
        statement=statement, signatures=tuple((kid, sign(KEYS[kid], statement.digest)) for kid in kids)
    ).encode()


def birth_commands():
    first = first_statement(GROUP, Cluster(id=b"1" * 32), now_s=1_800_000_000)
    later = next_statement(first, Cluster(id=b"2" * 32, generation=1), now_s=1_900_000_000)
    foreign = first_statement(b"h" * 32, Cluster(id=b"1" * 32), now_s=1_800_000_000)
    certificates = [
        signed(first, "k1"),
        signed(first, "k1", "k2"),
        signed(first, "k1", "k2"),
        signed(foreign, "k1", "k2"),
        signed(later, "k1", "k2"),
        signed(first, "k1", "k2"),
        signed(later, "k1", "k2")[:-1],
        b"",
    ]
    return [[CONFIRM, certificate] for certificate in certificates] + [[CONFIRM, "text"], [CONFIRM]]


def tcb_commands():
    model, other = bytes.fromhex("50806f000000"), bytes.fromhex("90c06f000000")
    seen = [(model, 20, 1), (model, 20, 1), (model, 21, 2), (model, 19, 3), (other, 5, 4)]
    wrong = [
        (model[:5], 1, 1),
        (model, -1, 1),
        (model, True, 1),
        (model, 2**70, 1),
        (model, 1, -1),
        (model, 1),
    ]
    return [[SEEN, *values] for values in [*seen, *wrong]]


def ca_commands():
    good = [ca.FOUND, b"certificate", b"k" * 32]
    wrong = [
        [ca.FOUND, b"", b"k" * 32],
        [ca.FOUND, bytes(ca.CERTIFICATE_BYTES_MAX + 1), b"k" * 32],
        [ca.FOUND, b"certificate", b"k" * 31],
        [ca.FOUND, b"certificate"],
        [ca.FOUND, "certificate", b"k" * 32],
    ]
    return [*wrong, good, [ca.FOUND, b"another one", b"K" * 32], good]


PARTS = {
    "access": (lambda: AccessState([ROOT]), access_commands),
    "birth": (
        lambda: BirthState(authority_of(2, [AuthorityKey.of(k, spki_of(v)) for k, v in KEYS.items()]), GROUP),
        birth_commands,
    ),
    "tcb": (TcbState, tcb_commands),
    "ca": (ca.CaState, ca_commands),
}


def transcript(make, commands):
    """Apply the commands, and return each with its outcome, and the state at the end, all as CBOR in hex."""
    state, steps = make(), []
    for index, command in enumerate(commands, 1):
        savepoint = state.savepoint()
        try:
            result = state.apply(command, ApplyContext(1, index, 0, TIME_MS + 100 * index, GROUP))
            outcome = {"result": encode(result).hex()}
        except CommandError as exc:
            state.rollback(savepoint)
            outcome = {"refused": [exc.code, exc.message]}
        steps.append({"command": encode(command).hex(), **outcome})
    restored = make()
    restored.restore(decode_untrusted(encode(state.snapshot()), bytes_max=2**20, items_max=2**16))
    assert restored.snapshot() == state.snapshot()
    return {"level": LEVEL, "steps": steps, "state": encode(state.snapshot()).hex()}


def check(name, make, commands):
    """Compare a part with what is recorded of it; return what is wrong, for people."""
    path = FILES / f"{name}-{LEVEL}.json"
    if not path.exists():
        if not os.environ.get("REWRITE"):
            return f"{name} has no transcript for level {LEVEL}: record it with REWRITE=1"
        path.write_text(json.dumps(transcript(make, [*STRANGE, *commands()]), indent=1) + "\n")
    recorded = json.loads(path.read_text())
    given = [
        decode_untrusted(bytes.fromhex(step["command"]), bytes_max=2**20, items_max=2**16)
        for step in recorded["steps"]
    ]
    now = transcript(make, given)
    if now == recorded:
        return ""
    changed = [(old, new) for old, new in zip(recorded["steps"], now["steps"], strict=True) if old != new]
    return (
        f"{name} is not what feature level {LEVEL} stands for: {changed[:1] or 'its state at the end is another'}."
        " Members of two releases at this level would come to different states: raise the level"
        " (docs/features.md), keep this behaviour below it, and record the new one with REWRITE=1."
    )


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_the_system_state_does_what_its_level_stands_for(name):
    assert check(name, *PARTS[name]) == ""


def test_another_limit_or_rule_under_the_old_level_fails_with_the_advice_to_raise_it(monkeypatch):
    monkeypatch.setattr("node.system.tcb.TcbState._see", lambda *_: True)
    assert "raise the level" in check("tcb", *PARTS["tcb"])
    monkeypatch.setattr("node.system.access.AccessState._loses_last_admin", lambda *_: False)
    assert "raise the level" in check("access", *PARTS["access"])
    monkeypatch.setattr("node.system.birth.ConfirmedCluster.require_not_before", lambda *_: None)
    assert "raise the level" in check("birth", *PARTS["birth"])


def test_every_recorded_refusal_and_success_is_there():
    """A transcript of refusals alone would hold nothing."""
    for name in PARTS:
        steps = json.loads((FILES / f"{name}-{LEVEL}.json").read_text())["steps"]
        assert sum("result" in step for step in steps) >= 2
        assert len({step["refused"][0] for step in steps if "refused" in step}) >= (
            1 if name in ("tcb", "ca") else 3
        )
