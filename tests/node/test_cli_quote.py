"""`bondstone quote` on the command line: verdicts on real quotes, and clear errors for what is none."""

import json

import pytest

from tests.support.cluster import cli
from tests.support.vectors import VECTORS, needs_vectors, vector

pytestmark = needs_vectors


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


@pytest.mark.parametrize(("name", "case"), first_cases())
def test_verdict_is_what_the_index_says(name, case):
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


def test_half_a_quote_is_refused_with_a_reason(tmp_path):
    whole = (VECTORS / "real" / "dcapqvl-tdx_quote" / "quote.bin").read_bytes()
    half = tmp_path / "half.bin"
    half.write_bytes(whole[: len(whole) // 2])
    run = cli("quote", "verify", half, "--at", "1751000000", "--json")

    assert run.returncode == 1
    assert json.loads(run.stdout)["reason"] == "quote-truncated"


def test_without_collateral_nothing_can_be_decided():
    quote = VECTORS / "real" / "dcapqvl-tdx_quote" / "quote.bin"
    run = cli("quote", "verify", quote, "--at", "2025-06-27T04:53:20Z", "--json")

    assert run.returncode == 3
    assert json.loads(run.stdout)["reason"] == "collateral-missing"


def test_a_missing_file_and_a_time_that_is_none_are_named():
    missing = cli("quote", "verify", "nowhere.bin", "--at", "0")
    untimely = cli("quote", "verify", VECTORS / "README.md", "--at", "yesterday")

    assert (missing.returncode, untimely.returncode) == (2, 2)
    assert "nowhere.bin" in missing.stderr
    assert "yesterday" in untimely.stderr


def test_show_explains_a_quote_and_its_event_log():
    folder = VECTORS / "real" / "dstack-quote-report"
    run = cli("quote", "show", folder / "quote.bin", "--json")

    assert run.returncode == 0, run.stderr
    assert len(json.loads(run.stdout)["measurements"]["mrtd"]) == 96
