"""The verifier beside the PyPI package dcap-qvl 0.7.0, over mutated quotes, collateral and times.

Wherever the two differ, the difference is one of the two short lists below, each with its reason in the
design. Anything else is a defect of one of them, and fails here.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import dcap_qvl
import pytest

from attestation.verdict import verify_report
from tests.support.vectors import VectorCase, needs_vectors, real_cases, synthetic_cases

pytestmark = needs_vectors

# We refuse, dcap-qvl accepts. Numbers like A6.3 stand in docs/design/attestation.md.
STRICTER = {
    "quote-signature-data-trailing": "A3: inner sizes consume the block exactly",
    "quote-certification-type": "A3: the unauthenticated outer type must be 6",
    "quote-certification-data-type": "A3: only the types that exist",
    "pck-chain-malformed": "A3: PEM bodies hold base64 and line ends only",
    "pck-chain-length": "A3: exactly three certificates",
    "tcb-info-signer-chain-malformed": "A3: PEM bodies hold base64 and line ends only",
    "qe-identity-signer-chain-malformed": "A3: PEM bodies hold base64 and line ends only",
    "tcb-info-signer-chain-length": "A6.1: the signer is directly below the root",
    "qe-identity-signer-chain-length": "A6.1: the signer is directly below the root",
    "untrusted-root": "A6.1: a root in a chain is the pinned one, byte for byte",
    "tcb-info-signer-role": "A6.1, A15.1: only the TCB Signing certificate signs TCB info",
    "pck-crl-not-yet-valid": "A6.4: thisUpdate is checked",
    "root-crl-not-yet-valid": "A6.3: thisUpdate is checked",
    "root-not-yet-valid": "A6.2: the root has a window too",
    "tcb-info-malformed": "A5.1: form, ranges and dates of the document",
    "qe-identity-malformed": "A5.1, A5.2: form and statuses of the document",
    "qe-identity-version": "A7: TD_QE has version 2",
    "tdx-module-attributes": "A8.2: SEAMATTRIBUTES are all zero on both sides",
    "td-xfam": "A9: XFAM has its fixed bits",
    "sgx-evidence-unsupported": "A1: TDX evidence only",
}

# dcap-qvl refuses, we accept: a part of its message, and why ours is right.
MORE_LENIENT = {
    "Invalid QE auth data length": "A3: Intel's own samples have none",
    "Failed to parse PCK CRL issuer chain": "A6.5: that chain adds nothing",
}
# Both give a status, another one.
OTHER_STATUS = {"qe-levels-unsorted_ascending_": "A7: sort, do not trust the order"}


@dataclass(frozen=True)
class Outcome:
    accepted: bool
    detail: str


def _ours(case: VectorCase) -> Outcome:
    value = verify_report(case.quote, case.collateral, root=case.root, policy=None, now=case.now).value
    reasons = {finding["reason"] for finding in value["findings"]}
    # A status that the policy does not like is still a status; dcap-qvl has no policy in verify().
    if value["verified"] and reasons <= {"tcb-status-not-accepted", "tcb-advisory-not-accepted"}:
        return Outcome(accepted=True, detail=value["status"])
    return Outcome(accepted=False, detail=value["reason"])


def _theirs(case: VectorCase) -> Outcome:
    try:
        collateral = dcap_qvl.QuoteCollateralV3.from_json(case.collateral.decode())
        second = int(case.now.timestamp())
        if case.root.mock:
            verified = dcap_qvl.verify_with_root_ca(case.quote, collateral, case.root.certificate_der, second)
        else:
            verified = dcap_qvl.verify(case.quote, collateral, second)
    except ValueError as exc:
        return Outcome(accepted=False, detail=str(exc))
    return Outcome(accepted=True, detail=verified.status)


def _explained(case: VectorCase, ours: Outcome, theirs: Outcome) -> bool:
    if ours.accepted and theirs.accepted:
        return ours.detail == theirs.detail or case.name in OTHER_STATUS
    if theirs.accepted:
        return ours.detail in STRICTER
    return not ours.accepted or any(text in theirs.detail for text in MORE_LENIENT)


def _differences(cases: Iterator[VectorCase]) -> list[tuple[str, Outcome, Outcome]]:
    out = []
    for case in cases:
        ours, theirs = _ours(case), _theirs(case)
        if not _explained(case, ours, theirs):
            out.append((case.name, ours, theirs))
    return out


REAL = [case for case in real_cases() if case.tee == "TDX"]
BASES = {
    case.name: case
    for case in REAL
    if case.name
    in {
        "dcapqvl-tdx_quote-case01",
        "google-v5-case01",
        "dcapqvl-tdx_quote_td15ex-case01",
        "google-cos113-case02",
    }
}


def test_untouched_vectors():
    assert _differences(iter([*REAL, *synthetic_cases()])) == []


ROUNDS = [80, pytest.param(3000, marks=[pytest.mark.long, pytest.mark.timeout(600)])]


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("name", BASES)
def test_mutated_quotes(name, rounds):
    chance = random.Random(f"quote {name}")
    base = BASES[name]

    def mutants() -> Iterator[VectorCase]:
        for number in range(rounds):
            quote = bytearray(base.quote)
            kind = chance.randrange(4)
            if kind == 0:
                quote[chance.randrange(len(quote))] = chance.randrange(256)
            elif kind == 1:
                quote[chance.randrange(1300)] ^= 1 << chance.randrange(8)
            elif kind == 2:
                del quote[chance.randrange(len(quote)) :]
            else:
                # The structural fields: lengths and types.
                at = chance.choice([0, 2, 4, 48, 50, 632, 764, 766, 1218, 1252, 1254])
                quote[at] = (quote[at] + chance.choice([-1, 1, 2])) % 256
            yield replace(base, name=f"{name} {number} {kind}", quote=bytes(quote))

    assert _differences(mutants()) == []


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("name", BASES)
def test_mutated_collateral(name, rounds):
    chance = random.Random(f"collateral {name}")
    base = BASES[name]
    members = json.loads(base.collateral)
    others = [json.loads(case.collateral) for case in REAL]

    def mutants() -> Iterator[VectorCase]:
        for number in range(rounds):
            changed = dict(members)
            member = chance.choice(sorted(name for name in members if members[name]))
            if chance.random() < 0.5:
                changed[member] = chance.choice(others)[member]
                if member + "_signature" in changed and chance.random() < 0.8:
                    source = next(other for other in others if other[member] == changed[member])
                    changed[member + "_signature"] = source[member + "_signature"]
            else:
                text = changed[member]
                at = chance.randrange(len(text))
                changed[member] = text[:at] + chance.choice("0123456789abcdefAZ+ ") + text[at + 1 :]
            collateral = json.dumps(changed).encode()
            yield replace(base, name=f"{name} {number} {member}", collateral=collateral)

    assert _differences(mutants()) == []


@pytest.mark.parametrize("name", BASES)
def test_other_times(name):
    base = BASES[name]
    first, last = (datetime.fromtimestamp(second, UTC) for second in base.entry["collateral_window"])
    second = timedelta(seconds=1)
    times = [
        *(edge + offset * second for edge in (first, last) for offset in range(-3, 4)),
        *(first + timedelta(days=day) for day in range(-40, 41, 3)),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2040, 1, 1, tzinfo=UTC),
        datetime(2200, 1, 1, tzinfo=UTC),
    ]

    assert _differences(replace(base, name=f"{name} {now}", now=now) for now in times) == []
