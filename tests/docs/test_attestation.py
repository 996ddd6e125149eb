"""The documentation names what the code does: every step, every reason, every key of a policy, every member."""

import re
import shlex
from pathlib import Path
from string import Template

import pytest

from attestation.encoding.toml_tables import StrictTable
from attestation.policy import toml
from attestation.policy.appraise import load_policy_untrusted
from attestation.steps import Step
from attestation.values import TD_ATTRIBUTE_BITS
from attestation.verdict import verify_report
from tests.support import evidence
from tests.support.cluster import cli
from tests.support.vectors import VECTORS, needs_vectors

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "attestation.md").read_text()
PARTS = ("quote", "x509", "collateral", "policy", "tcb.py", "verifier.py", "verdict.py")
ROLES = {
    "tcb-info",
    "qe-identity",
    "root-crl",
    "pck-crl",
    "pck-ca",
    "tcb-info-signer",
    "qe-identity-signer",
    "tdx-module",
}


def _commands() -> list[list[str]]:
    """Return the arguments of every command in the walk-through, its variables filled in and its comment left out."""
    variables: dict[str, str] = {}
    out = []
    for line in re.findall(r"^\$ (.*)$", DOCUMENT, re.MULTILINE):
        words = shlex.split(Template(line).safe_substitute(variables), comments=True)
        if words[0] == "bondstone":
            out.append(words[1:])
            continue
        name, value = words[0].split("=")
        variables[name] = value.replace("../shared/vectors", str(VECTORS))
    return out


LOCAL = [words for words in _commands() if words[1] not in {"fetch", "numbers"}]
REMOTE = [words for words in _commands() if words[1] in {"fetch", "numbers"}]


@needs_vectors
@pytest.mark.parametrize("words", LOCAL, ids=" ".join)
def test_every_command_of_the_walk_through_does_what_the_page_states(words):
    done = cli(*words, env={"COLUMNS": "400"})

    assert done.returncode == (1 if "case02" in " ".join(words) else 0), done.stderr
    if done.returncode == 1:
        shown = DOCUMENT.split("# exit status 1\n")[1].split("\n```")[0].splitlines()
        for line, printed in zip(shown, done.stdout.splitlines(), strict=False):
            assert printed.startswith(line.removesuffix("…"))
        assert len(shown) == 3


@pytest.mark.parametrize("words", REMOTE, ids=" ".join)
def test_every_option_of_a_command_that_needs_a_network_exists(words):
    known = cli(*words[:2], "--help").stdout

    assert {word for word in words if word.startswith("--") and word not in known} == set()


def test_the_walk_through_has_its_commands():
    assert (len(LOCAL), len(REMOTE)) == (7, 3)


def test_the_example_policy_is_a_policy():
    example = DOCUMENT.split("```toml\n")[1].split("```")[0]

    policy = load_policy_untrusted(example.encode())
    assert set(policy.reference_values.variants) == {"release-1"}


def test_every_step_is_described_in_order():
    rows = re.findall(r"^\| (\d+) \| ", DOCUMENT, re.MULTILINE)

    assert rows[: len(Step)] == [step.value for step in Step]


def _sources():
    for part in PARTS:
        place = ROOT / "attestation" / part
        for file in [place] if place.is_file() else sorted(place.glob("*.py")):
            yield file.read_text()


def test_every_reason_in_the_code_is_documented():
    reasons = set()
    for source in _sources():
        reasons |= set(re.findall(r'Error\(\s*"([a-z0-9]+(?:-[a-z0-9]+)+)"', source))
    reasons -= ROLES | {"der-malformed"}

    assert len(reasons) > 40
    assert {reason for reason in reasons if f"`{reason}`" not in DOCUMENT} == set()


def test_every_member_of_a_report_is_documented():
    value = verify_report(
        evidence.quote(),
        evidence.endorsements().to_json(),
        root=evidence.authority().trust_root,
        policy=None,
        now=evidence.NOW,
    ).value

    assert {member for member in value if f"`{member}`" not in DOCUMENT} == set()
    assert {member for member in value["pck"] if f"`{member}`" not in DOCUMENT} == set()
    assert {member for member in value["tcb"]["launch"] if f"`{member}`" not in DOCUMENT} == set()


def test_every_attribute_is_known_by_a_distinct_bit():
    assert len(set(TD_ATTRIBUTE_BITS.values())) == len(TD_ATTRIBUTE_BITS)


def test_every_key_of_a_policy_is_documented():
    tables = [one for one in vars(toml).values() if isinstance(one, type) and issubclass(one, StrictTable)]
    keys = {key for table in tables for key in table.__struct_fields__}

    assert len(keys) > 20
    assert {key for key in keys if not re.search(rf"\b{key}\b", DOCUMENT)} == set()
