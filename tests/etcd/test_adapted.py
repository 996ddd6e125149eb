"""What may differ from etcd differs on purpose, and no row that clients need is among it."""

import re

import pytest

from tests.etcd.rows import ADAPTABLE, HERE, adapted, faults, key_of, levels

IDS = {
    "semantics": set(
        re.findall(
            r'@case\(\s*"([A-Z]+-\d+)', "".join(each.read_text() for each in HERE.glob("cases_of_*.py"))
        )
    ),
    "gateway": set(re.findall(r"^def (\w+)\(", (HERE / "gateway.py").read_text(), re.MULTILINE)),
    "etcdctl": set(re.findall(r"^def (\w+)\(", (HERE / "ctl_matrix.py").read_text(), re.MULTILINE)),
}


def test_no_row_that_must_be_as_in_etcd_is_adapted():
    known = levels()
    for suite, rows in adapted().items():
        for row, reason in rows.items():
            assert known[suite][row] in ADAPTABLE, f"{suite} {row} is a must"
            assert len(reason) > 20


@pytest.mark.parametrize("listed", [levels(), adapted()], ids=["levels", "adapted"])
def test_every_row_that_is_listed_is_in_the_harness(listed):
    for suite, rows in listed.items():
        assert set(rows) <= IDS[suite]


def test_the_harness_has_the_rows_that_were_seen_on_etcd():
    assert len(IDS["semantics"]) == 93


def test_a_row_that_fails_without_being_adapted_is_a_fault_and_so_is_an_adapted_one_that_passes():
    rows = [
        ("semantics", "PUT-01 empty key", "FAIL", "got 5"),
        ("semantics", "MNT-05 snapshot", "PASS", ""),
        ("semantics", "PUT-02 x", "PASS", ""),
        ("etcdctl-3.4.23", "watch", "SKIP", ""),
    ]
    assert faults(rows, control=False) == [
        "semantics PUT-01 failed: got 5",
        "semantics MNT-05 passes: take it out of adapted.toml",
    ]
    assert faults(rows, control=True) == ["semantics PUT-01 failed: got 5"]
    assert key_of("etcdctl-3.4.23", "put_get") == ("etcdctl", "put_get")
