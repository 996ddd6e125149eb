"""``bondstone kv`` beyond single keys: ranges, the past, transactions, leases, hashes."""

import json

import pytest

from tests.node.cli.test_kv import ca, store  # noqa: F401 - fixtures


@pytest.fixture
def filled(store):  # noqa: F811
    _, run = store
    for key in ("a", "b/1", "b/2", "c"):
        assert run("put", key, f"={key}").returncode == 0
    return run


def lines(done, code=0):
    assert done.returncode == code, done.stderr
    return done.stdout.decode().splitlines()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["get", "b/", "--prefix"], ["b/1", "=b/1", "b/2", "=b/2"]),
        (["get", "b/", "--prefix", "--keys-only"], ["b/1", "b/2"]),
        (["get", "b/", "--prefix", "--count-only"], ["2"]),
        (["get", "b/2", "--from-key", "--keys-only"], ["b/2", "c"]),
        (["get", "a", "b/2", "--keys-only"], ["a", "b/1"]),
        (["get", "--prefix", "--keys-only"], ["a", "b/1", "b/2", "c"]),
        (["get", "--prefix", "--keys-only", "--limit", "1"], ["a"]),
        (["get", "--prefix", "--keys-only", "--order", "descend"], ["c", "b/2", "b/1", "a"]),
        (["get", "--prefix", "--keys-only", "--sort-by", "modify", "--order", "descend"], ["c", "b/2", "b/1", "a"]),
        (["get", "--prefix", "--keys-only", "--rev", "3"], ["a", "b/1"]),
        (["get", "z", "--prefix"], []),
    ],
)  # fmt: skip
def test_ranges(filled, arguments, expected):
    assert lines(filled(*arguments)) == expected


def test_a_key_of_the_past_is_exactly_its_bytes(filled):
    filled("put", "a", "-", given=b"\x00\xff")
    assert filled("get", "a").stdout == b"\x00\xff"
    assert filled("get", "a", "--rev", "2").stdout == b"=a"
    assert filled("get", "b/1", "--rev", "2").returncode == 1
    assert filled("get", "a", "--rev", "99").returncode == 1


def test_ranges_in_json(filled):
    found = json.loads(filled("get", "b/", "--prefix", "--limit", "1", "--json").stdout)
    assert (found["revision"], found["count"], found["more"]) == (5, 2, True)
    assert found["items"] == [
        {"key": "b/1", "value": "=b/1", "create_revision": 3, "mod_revision": 3, "version": 1, "lease": 0}
    ]


def test_a_put_shows_what_was_there_and_keeps_the_value_when_asked(filled):
    shown = json.loads(filled("put", "a", "new", "--prev-kv", "--json").stdout)
    assert (shown["revision"], shown["prev_kv"]["value"]) == (6, "=a")
    assert filled("put", "a", "--ignore-value").returncode == 0
    assert filled("get", "a").stdout == b"new"
    assert filled("put", "new", "--ignore-value").returncode == 1
    assert filled("put", "a", "x", "--ignore-value").returncode == 1
    assert json.loads(filled("put", "fresh", "1", "--prev-kv", "--json").stdout)["prev_kv"] is None


def test_a_range_is_deleted(filled):
    assert lines(filled("del", "b/", "--prefix")) == ["2"]
    assert lines(filled("del", "b/", "--prefix"), code=1) == ["0"]
    assert lines(filled("del", "a", "--prev-kv")) == ["1", "a", "=a"]
    gone = json.loads(filled("del", "", "--from-key", "--prev-kv", "--json").stdout)
    assert (gone["deleted"], gone["prev_kvs"][0]["key"]) == (1, "c")


TXN = b'value("a") = "=a"\n\nput a new\nget b/ --prefix\ndel c\n\nget a\n'


def test_a_transaction_reports_which_branch_it_took(filled):
    assert lines(filled("txn", given=TXN)) == ["SUCCESS", "OK", "b/1", "=b/1", "b/2", "=b/2", "1"]
    assert lines(filled("txn", given=TXN), code=1) == ["FAILURE", "a", "new"]


def test_a_transaction_in_json(filled):
    done = json.loads(filled("txn", "--json", given=TXN).stdout)
    assert (done["succeeded"], done["revision"]) == (True, 6)
    put, found, deleted = done["responses"]
    assert put == {"put": {"prev_kv": None}}
    assert [item["key"] for item in found["range"]["items"]] == ["b/1", "b/2"]
    assert deleted == {"delete": {"deleted": 1, "prev_kvs": []}}


def test_a_binary_transaction(filled):
    assert lines(filled("txn", "--hex", given=b"\nput ff 00fe\nget ff\n")) == [
        "SUCCESS",
        "OK",
        "\\xff",
        "\\x00\\xfe",
    ]


def test_a_transaction_that_is_not_understood_is_2_and_one_that_is_refused_1(filled):
    assert filled("txn", given=b"mod(a) ~ 1\n").returncode == 2
    assert filled("txn", given=b"\nput a 1\nput a 2\n").returncode == 1


def test_the_past_is_forgotten_up_to_a_revision(filled):
    assert lines(filled("compact", "4")) == ["compacted revision 4"]
    assert filled("get", "a", "--rev", "3").returncode == 1
    assert filled("compact", "4").returncode == 1
    assert filled("compact", "99").returncode == 1


def test_equal_stores_have_equal_hashes(filled):
    before = json.loads(filled("hashkv", "--json").stdout)
    filled("put", "a", "x")
    after = json.loads(filled("hashkv", "--json").stdout)
    assert before["hash"] != after["hash"]
    assert json.loads(filled("hashkv", "--rev", "5", "--json").stdout)["hash"] == before["hash"]
    assert lines(filled("hashkv")) == [
        f"{after['hash']}, revision 6, compacted at {after['compact_revision']}"
    ]


def test_leases_are_granted_shown_used_and_revoked(filled):
    assert lines(filled("lease", "grant", "60", "--id", "1f")) == [
        "lease 000000000000001f granted with TTL(60s)"
    ]
    assert filled("lease", "grant", "60", "--id", "1f").returncode == 1
    assert filled("put", "held", "v", "--lease", "1f").returncode == 0
    shown = json.loads(filled("lease", "timetolive", "1f", "--keys", "--json").stdout)
    assert (shown["id"], shown["granted_ttl"], shown["keys"]) == (31, 60, [{"key": "held"}])
    assert lines(filled("lease", "timetolive", "1f", "--keys"))[1:] == ["held"]
    assert lines(filled("lease", "list")) == ["found 1 leases", "000000000000001f"]
    assert lines(filled("lease", "revoke", "1f")) == ["lease 000000000000001f revoked"]
    assert filled("get", "held").returncode == 1
    assert filled("lease", "revoke", "1f").returncode == 1
    assert filled("lease", "timetolive", "1f").returncode == 1
    assert json.loads(filled("lease", "list", "--json").stdout) == {"leases": []}
    chosen = json.loads(filled("lease", "grant", "60", "--json").stdout)["id"]
    assert filled("lease", "revoke", f"{chosen:x}").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["get", ""],
        ["get", "a", "b", "--prefix"],
        ["get", "a", "--prefix", "--from-key"],
        ["del", "a", "b", "--from-key"],
        ["put", "a", "v", "--lease", "xyz"],
        ["put", "a", "v", "--lease", "-1"],
        ["put", "a", "v", "--lease", "ffffffffffffffff"],
        ["lease", "revoke", "0x1f"],
        ["get", "a", "--sort-by", "size"],
        ["compact", "0"],
        ["compact", "x"],
    ],
)
def test_a_command_line_that_is_wrong_is_2(filled, arguments):
    done = filled(*arguments)
    assert done.returncode == 2, done.stderr
