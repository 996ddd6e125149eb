"""No rule can be left out of a policy's digest, and a later rule changes no digest of today."""

import dataclasses
import re
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey

from attestation.policy import rules as policy_rules
from attestation.policy.appraise import default_policy
from attestation.policy.rules import ABSENT, AppraisalPolicy, TcbRules
from attestation.policy.toml import load_policy_untrusted, policy_from_table_untrusted
from attestation.tickets.jwt import JwtRules, JwtValidator, load_keys_untrusted
from attestation.values import TcbStatus
from attestation.x509.trust import INTEL_SGX_ROOT

WRITTEN = AppraisalPolicy(
    tcb=TcbRules(
        accepted_statuses=frozenset({TcbStatus.UP_TO_DATE}),
        accepted_advisories=frozenset({"INTEL-SA-1"}),
        refused_advisories=frozenset({"INTEL-SA-2"}),
        grace_period=timedelta(days=3),
        minimum_evaluation_data_number=19,
        minimum_tee_tcb_svn=bytes(range(16)),
        max_collateral_age=timedelta(days=30),
        standing_days=7,
    ),
    td=dataclasses.replace(default_policy().td, xfam_required=7),
    reference_values=policy_rules.ReferenceValues(
        baseline={"mrtd": frozenset({b"\x01" * 48})},
        variants={"a": {"rtmr1": frozenset({b"\x02" * 48})}},
        not_checked=("rtmr2", "rtmr3"),
        accept_any_td=False,
        own_mrconfigid=True,
    ),
    ticket=policy_rules.TicketRules(
        max_age=timedelta(hours=1),
        max_lifetime=timedelta(hours=2),
        not_before=datetime(2026, 1, 1, tzinfo=UTC),
    ),
    event_log=policy_rules.EventLogRules(registers=frozenset({1, 2})),
)


def other(value: Any) -> Any:
    """Another value of the same kind."""
    match value:
        case None:
            return timedelta(seconds=1)
        case bool():
            return not value
        case Enum():
            return next(one for one in type(value) if one is not value)
        case timedelta():
            return value + timedelta(seconds=1)
        case datetime():
            return value + timedelta(seconds=1)
        case int():
            return value + 1
        case str():
            return value + "x"
        case bytes():
            return bytes([value[0] ^ 1]) + value[1:]
        case frozenset():
            (some, *_) = sorted(value, key=str)
            return (value - {some}) | {other(some)}
        case tuple():
            return (*value, "rtmr0")
        case dict():
            key = next(iter(value))
            return {**value, key: other(value[key])}
        case _:
            raise AssertionError(f"this test does not know how to change {value!r}")


RULES = [field.name for field in dataclasses.fields(AppraisalPolicy)]
FIELDS = [(part, field.name) for part in RULES for field in dataclasses.fields(getattr(WRITTEN, part))]


@pytest.mark.parametrize(("part", "name"), FIELDS)
@pytest.mark.parametrize("policy", [WRITTEN, default_policy()], ids=["written", "default"])
def test_every_field_of_every_rule_is_in_the_digest(policy, part, name):
    rules = getattr(policy, part)
    value = getattr(rules, name)
    if value in (frozenset(), {}, ()):
        value = {"accepted_statuses": None}.get(name, getattr(getattr(WRITTEN, part), name))
        changed = dataclasses.replace(rules, **{name: value})
    else:
        changed = dataclasses.replace(rules, **{name: other(value)})
    after = dataclasses.replace(policy, **{part: changed})

    assert after.canonical() != policy.canonical()
    assert after.signature != policy.signature
    assert after.signature_with(INTEL_SGX_ROOT) != policy.signature_with(INTEL_SGX_ROOT)


def test_every_class_of_rules_documents_what_absence_means():
    classes = {type(getattr(WRITTEN, part)) for part in RULES} | {AppraisalPolicy}

    assert set(ABSENT) == classes
    for rules, absent in ABSENT.items():
        assert set(absent) <= {field.name for field in dataclasses.fields(rules)}


MINIMAL = """
version = 1
[tcb]
accepted_statuses = ["UpToDate"]
[ticket]
max_age_seconds = 1
max_lifetime_seconds = 1
[reference_values]
accept_any_td = true
"""


def test_the_loader_and_the_digest_agree_about_absence():
    """A file that leaves everything out is read to what is not written: the two cannot drift apart."""
    policy = load_policy_untrusted(MINIMAL.encode())

    assert policy.canonical() == {
        "tcb": {"accepted_statuses": ["UpToDate"]},
        "ticket": {"max_age": 1, "max_lifetime": 1},
        "reference_values": {
            "accept_any_td": True,
            "not_checked": sorted(policy_rules.REGISTERS, key=lambda name: (len(name), name)),
        },
    }


def test_a_rule_that_a_later_release_adds_changes_no_digest_of_today(monkeypatch):
    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class LaterRules(TcbRules):
        brand_new: int = 3

    later = LaterRules(
        **{field.name: getattr(WRITTEN.tcb, field.name) for field in dataclasses.fields(TcbRules)}
    )
    monkeypatch.setattr(policy_rules, "ABSENT", {**ABSENT, LaterRules: {**ABSENT[TcbRules], "brand_new": 3}})

    assert dataclasses.replace(WRITTEN, tcb=later).signature == WRITTEN.signature
    newer = dataclasses.replace(later, brand_new=4)
    assert dataclasses.replace(WRITTEN, tcb=newer).signature != WRITTEN.signature


def test_a_rule_of_a_kind_without_a_canonical_form_is_an_error_and_is_not_skipped():
    odd = dataclasses.replace(WRITTEN, tcb=dataclasses.replace(WRITTEN.tcb, standing_days=1.5))

    with pytest.raises(TypeError, match="float"):
        odd.canonical()


def test_a_policy_inside_another_document_is_the_same_policy():
    import tomllib

    tables = tomllib.loads(MINIMAL.replace("version = 1", ""))

    assert policy_from_table_untrusted(tables, path="policy") == load_policy_untrusted(MINIMAL.encode())


# ---- the rules of tokens --------------------------------------------------------------------------------

TOKEN_RULES = JwtRules(
    issuer="i",
    audience="a",
    subject="s",
    required_claims={"stage": "prod"},
    max_age=timedelta(hours=1),
    max_lifetime=timedelta(hours=2),
    non_expiring=False,
)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(JwtRules)])
def test_every_rule_of_a_token_is_in_the_validators_signature(name):
    import json

    key = ECKey.generate_key("P-256", {"alg": "ES256"}).as_dict(private=False)
    keys = load_keys_untrusted(json.dumps({"keys": [key]}).encode())
    rules = dataclasses.replace(TOKEN_RULES, max_lifetime=None) if name == "non_expiring" else TOKEN_RULES
    changed = dataclasses.replace(rules, **{name: other(getattr(rules, name))})

    assert JwtValidator(keys=keys, rules=changed).signature != JwtValidator(keys=keys, rules=rules).signature


# The reader of the file judges it: only with it may a policy leave MRTD unpinned.
JUDGED_WHEN_READ = [("reference_values", "accept_any_td")]


@pytest.mark.parametrize(("part", "name"), [one for one in FIELDS if one not in JUDGED_WHEN_READ])
def test_every_rule_is_applied_somewhere(part: str, name: str) -> None:
    """A rule that no code reads would be in every digest and in no verdict."""
    root = Path(policy_rules.__file__).parents[2]
    reading = [
        path
        for folder in ("attestation", "node")
        for path in (root / folder).rglob("*.py")
        if path.name not in {"rules.py", "toml.py"} and re.search(rf"\.{name}\b", path.read_text())
    ]

    assert reading, f"{part}.{name}"
