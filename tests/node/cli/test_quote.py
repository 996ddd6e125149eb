"""`bondstone quote` on the command line: verdicts on real quotes, and clear errors for what is none."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from attestation.values import TcbStatus
from enclave.mock.statement import PLATFORM_UP_TO_DATE, Statement
from enclave.mock.td import TDSettings
from tests.support import documents, evidence
from tests.support.certificates import make, usage
from tests.support.cluster import cli
from tests.support.vectors import VECTORS, needs_vectors, vector

REAL = VECTORS / "real" / "dcapqvl-tdx_quote"


def first_cases():
    if not VECTORS.is_dir():
        return []
    return [
        pytest.param(entry["name"], case, id=f"{entry['name']}-{case['dir']}")
        for entry in json.loads(vector("index.json"))["real"]
        if entry["first"]
        for case in entry["cases"]
    ]


def verify(name: str, case: dict, *more: str):
    folder = VECTORS / "real" / name
    return cli(
        "quote", "verify", folder / "quote.bin", "--collateral", folder / case["dir"] / "collateral.json",
        "--at", str(case["now"]), "--json", *more,
    )  # fmt: skip


@needs_vectors
@pytest.mark.parametrize(("name", "case"), first_cases())
def test_the_verdict_is_what_the_index_expects(name, case):
    run = verify(name, case)
    answer = json.loads(run.stdout)
    expected = case["with_td_policy"]

    assert answer["accepted"] == (expected.get("status") == "UpToDate")
    assert run.returncode == (0 if answer["accepted"] else 1)
    assert answer["status"] == case["tcb"].get("status")
    assert sorted(answer["advisory_ids"]) == sorted(case["tcb"].get("adv", []))
    assert (answer["reason"] is None) == answer["accepted"]
    assert {"quote_version", "fmspc", "measurements", "report_data", "td_attributes", "not_checked"} <= set(
        answer
    )
    assert set(answer["measurements"]) >= {"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam"}


@needs_vectors
def test_half_a_quote_is_refused_with_a_reason(tmp_path):
    whole = (VECTORS / "real" / "dcapqvl-tdx_quote" / "quote.bin").read_bytes()
    half = tmp_path / "half.bin"
    half.write_bytes(whole[: len(whole) // 2])
    run = cli("quote", "verify", half, "--at", "1751000000", "--json")

    assert run.returncode == 1
    assert json.loads(run.stdout)["reason"] == "quote-truncated"


@needs_vectors
def test_without_collateral_nothing_can_be_decided():
    quote = VECTORS / "real" / "dcapqvl-tdx_quote" / "quote.bin"
    run = cli("quote", "verify", quote, "--at", "2025-06-27T04:53:20Z", "--json")

    assert run.returncode == 3
    assert json.loads(run.stdout)["reason"] == "collateral-missing"


def test_a_missing_file_and_an_invalid_time_are_named():
    missing = cli("quote", "verify", "nowhere.bin", "--at", "0")
    untimely = cli("quote", "verify", __file__, "--at", "yesterday")

    assert (missing.returncode, untimely.returncode) == (2, 2)
    assert "nowhere.bin" in missing.stderr
    assert "yesterday" in untimely.stderr


@needs_vectors
def test_show_explains_a_quote_and_its_event_log():
    folder = VECTORS / "real" / "dstack-quote-report"
    run = cli("quote", "show", folder / "quote.bin", "--json")

    assert run.returncode == 0, run.stderr
    assert len(json.loads(run.stdout)["measurements"]["mrtd"]) == 96


@needs_vectors
def test_a_refusal_shows_at_once_what_is_short_and_by_how_much():
    run = cli(
        "quote", "verify", REAL / "quote.bin", "--collateral", REAL / "case02" / "collateral.json",
        "--at", "2026-08-28T05:21:24Z", env={"COLUMNS": "400"},
    )  # fmt: skip
    lines = run.stdout.split("┌")[0].splitlines()
    head = [line for line in lines if not line.startswith("advisory ")]

    assert run.returncode == 1
    assert lines[-1].startswith("advisory INTEL-SA-")
    assert lines[-1].endswith(".html")
    assert head == [
        "refused: the TCB status is OutOfDate; the policy accepts UpToDate (tcb-status-not-accepted)",
        (
            "launch, platform: OutOfDate since 2025-05-14; UpToDate (2025-08-13) needs "
            "sgx[0] (BIOS Early Microcode Update) 4, is 3, "
            "sgx[1] (OS/VMM SGX Late Microcode Update) 4, is 3, "
            "tdx[2] (OS/VMM TDX Late Microcode Update) 4, is 3"
        ),
        "launch, module: OutOfDate since 2025-05-14; UpToDate (2025-08-13) needs isvsvn 11, is 6",
    ]


def test_names_in_a_foreign_chain_drive_neither_the_terminal_nor_the_markup(tmp_path):
    """Who makes a quote chooses the names in its chain; a refusal repeats them."""
    authority = evidence.authority()
    evil = make(
        "\x1b[2J[/bold][red]x", authority.platform_ca, key_usage=usage("digital_signature")
    ).certificate_pem
    chain = evil + b"".join(authority.platform.issuers)
    files = {
        "quote.bin": evidence.rebuilt(evidence.quote(), certification_data=chain),
        "collateral.json": evidence.endorsements().to_json(),
        "root.der": authority.root.certificate_der,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    run = cli(
        "quote", "verify", tmp_path / "quote.bin", "--collateral", tmp_path / "collateral.json",
        "--trust-root", tmp_path / "root.der", "--at", evidence.NOW.isoformat(),
        env={"COLUMNS": "300"},
    )  # fmt: skip

    assert run.returncode == 1, run.stderr
    assert "\x1b" not in run.stdout
    assert "[/bold][red]x" in run.stdout
    assert "(pck-role)" in run.stdout


def test_a_grace_period_counts_from_the_date_that_is_given_and_without_one_there_is_none(tmp_path):
    levels = (
        replace(PLATFORM_UP_TO_DATE, sgx_svns=(8,) * 8 + (0,) * 8, date=evidence.NOW - timedelta(days=400)),
        replace(PLATFORM_UP_TO_DATE, status=TcbStatus.OUT_OF_DATE, date=evidence.NOW - timedelta(days=700)),
    )
    (tmp_path / "quote.bin").write_bytes(evidence.quote())
    (tmp_path / "set.json").write_bytes(evidence.endorsements(Statement(platform_levels=levels)).to_json())
    (tmp_path / "root.der").write_bytes(evidence.authority().trust_root.certificate_der)
    (tmp_path / "policy.toml").write_text(
        'version = 1\n[tcb]\naccepted_statuses = ["UpToDate"]\ngrace_period_days = 10\n'
        "[reference_values]\naccept_any_td = true\n[ticket]\nmax_age_seconds = 60\nmax_lifetime_seconds = 60\n"
    )

    def verdict(*more: str) -> tuple[int, str | None]:
        run = cli(
            "quote", "verify", tmp_path / "quote.bin", "--collateral", tmp_path / "set.json",
            "--trust-root", tmp_path / "root.der", "--policy", tmp_path / "policy.toml",
            "--at", "2026-09-01T12:00:00Z", "--json", *more,
        )  # fmt: skip
        return run.returncode, json.loads(run.stdout)["reason"]

    assert verdict() == (1, "tcb-status-not-accepted")
    assert verdict("--enforced-since", "2026-08-25T00:00:00Z") == (0, None)
    assert verdict("--enforced-since", "2026-08-21T00:00:00Z") == (1, "tcb-status-not-accepted")


def test_a_quote_is_compared_with_the_group_document_that_is_given(tmp_path):
    authority = evidence.authority()
    text = documents.MINIMAL.replace(documents.MRTD, TDSettings().mrtd.hex())
    text += f'[trust]\nroot = "{authority.trust_root.certificate_der.hex()}"\n'
    ours, other = documents.document(text), text.replace('"expect 3"', '"expect 5"')
    (tmp_path / "quote.bin").write_bytes(evidence.quote(TDSettings(mr_config_id=ours.mrconfigid)))
    (tmp_path / "set.json").write_bytes(evidence.endorsements().to_json())
    (tmp_path / "ours.toml").write_text(text)
    (tmp_path / "other.toml").write_text(other)
    policy = text[text.index("[policy.tcb]") : text.index("[trust]")].replace("[policy.", "[")
    (tmp_path / "policy.toml").write_text(f"version = 1\n{policy}")
    (tmp_path / "root.der").write_bytes(authority.trust_root.certificate_der)

    def verdict(*more: str) -> tuple[int, str | None]:
        run = cli(
            "quote", "verify", tmp_path / "quote.bin", "--collateral", tmp_path / "set.json",
            "--at", evidence.NOW.isoformat(), "--json", *more,
        )  # fmt: skip
        return run.returncode, json.loads(run.stdout)["reason"]

    by_policy = ("--policy", tmp_path / "policy.toml", "--trust-root", tmp_path / "root.der")
    assert verdict("--group-document", tmp_path / "ours.toml") == (0, None)
    assert verdict("--group-document", tmp_path / "other.toml") == (1, "mrconfigid-differs")
    assert verdict(*by_policy) == (3, "mrconfigid-own-unknown")
    assert verdict(*by_policy, "--group-document", tmp_path / "ours.toml") == (0, None)
    assert verdict("--group-document", tmp_path / "ours.toml", "--trust-root", "intel")[0] == 1
