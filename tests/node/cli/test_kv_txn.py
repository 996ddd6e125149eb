"""A transaction's text, in the form that people know from etcdctl."""

import pytest

from node.cli.kv_txn import transaction
from node.errors import ConfigError


def parsed(text, given=lambda data: data):
    return transaction(text.encode() if isinstance(text, str) else text, given)


def test_the_example_of_etcdctl_is_read_as_etcdctl_reads_it():
    text = 'mod("key1") > "0"\n\nput key1 "overwrote-key1"\n\nput key1 "created-key1"\nput key2 "some extra key"\n\n'
    assert parsed(text) == [
        "txn",
        [[2, 1, "a2V5MQ==", "", 0]],
        [["put", "a2V5MQ==", "b3Zlcndyb3RlLWtleTE=", 0, 0]],
        [
            ["put", "a2V5MQ==", "Y3JlYXRlZC1rZXkx", 0, 0],
            ["put", "a2V5Mg==", "c29tZSBleHRyYSBrZXk=", 0, 0],
        ],
    ]


@pytest.mark.parametrize(
    ("line", "compare"),
    [
        ('version("k") = "1"', [0, 0, "aw==", "", 1]),
        ('ver("k") != "1"', [0, 3, "aw==", "", 1]),
        ('create("k") < "1"', [1, 2, "aw==", "", 1]),
        ('c("k")="1"', [1, 0, "aw==", "", 1]),
        ('m("k") = "9223372036854775807"', [2, 0, "aw==", "", 2**63 - 1]),
        ('value("k") = "v"', [3, 0, "aw==", "", "dg=="]),
        ("val(k) = v", [3, 0, "aw==", "", "dg=="]),
        ('val("a b") > ""', [3, 1, "YSBi", "", ""]),
        ('value("\\x00\\"\\n") = "\\\\"', [3, 0, "ACIK", "", "XA=="]),
        ('lease("k") = "1f"', [4, 0, "aw==", "", 31]),
    ],
)
def test_compares(line, compare):
    assert parsed(line) == ["txn", [compare], [], []]


@pytest.mark.parametrize(
    ("line", "operation"),
    [
        ("put k v", ["put", "aw==", "dg==", 0, 0]),
        ("  put   k   'v'  ", ["put", "aw==", "J3Yn", 0, 0]),
        ('put "" ""', ["put", "", "", 0, 0]),
        ("put k v --lease 1f --prev-kv", ["put", "aw==", "dg==", 31, 1]),
        ("put k --ignore-value", ["put", "aw==", "", 0, 2]),
        ("put k v --ignore-lease", ["put", "aw==", "dg==", 0, 4]),
        ("put -- --k -v", ["put", "LS1r", "LXY=", 0, 0]),
        ("del k", ["delete", "aw==", "", 0]),
        ("del a b --prev-kv", ["delete", "YQ==", "Yg==", 1]),
        ("del a --prefix", ["delete", "YQ==", "Yg==", 0]),
        ("get k", ["range", "aw==", "", 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("get a b --limit 5 --rev 7", ["range", "YQ==", "Yg==", 5, 7, 0, 0, 0, 0, 0, 0, 0]),
        ("get a --from-key --keys-only", ["range", "YQ==", "AA==", 0, 0, 0, 0, 1, 0, 0, 0, 0]),
        ("get a --prefix --count-only", ["range", "YQ==", "Yg==", 0, 0, 0, 0, 2, 0, 0, 0, 0]),
        ("get a b --sort-by modify --order descend", ["range", "YQ==", "Yg==", 0, 0, 2, 3, 0, 0, 0, 0, 0]),
        ("get a b --sort-by value", ["range", "YQ==", "Yg==", 0, 0, 1, 4, 0, 0, 0, 0, 0]),
    ],
)
def test_requests(line, operation):
    assert parsed(f"\n{line}") == ["txn", [], [operation], []]
    assert parsed(f"\n\n{line}\n\n\n") == ["txn", [], [], [operation]]


def test_bytes_that_are_no_text_are_those_bytes():
    assert parsed(b"\nput \xff \xfe\xc3") == ["txn", [], [["put", "/w==", "/sM=", 0, 0]], []]


def test_keys_and_values_are_in_the_form_that_the_caller_names():
    text = 'mod("ff") = "1"\n\nput ff 00\n\ndel fe ff'
    assert parsed(text, lambda data: bytes.fromhex(data.decode())) == [
        "txn",
        [[2, 0, "/w==", "", 1]],
        [["put", "/w==", "AA==", 0, 0]],
        [["delete", "/g==", "/w==", 0]],
    ]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("mod(k) = x", "line 1: 'x' is not a revision"),
        ("mod(k) = -1", "line 1"),
        ("mod(k) = 9223372036854775808", "line 1"),
        ("mod(k) >= 1", "line 1: a compare"),
        ("size(k) = 1", "line 1: a compare"),
        ("mod k = 1", "line 1: a compare"),
        ("mod(k) = 1 2", "line 1: a compare"),
        ("lease(k) = xyz", "line 1: 'xyz' is not the id of a lease"),
        ("\nput", "line 2"),
        ("\nput k v w", "line 2"),
        ("\nput k v --lease", "line 2"),
        ("\nput k v --pre", "line 2"),
        ("\nget a b --prefix", "line 2: a range has one end"),
        ("\nget k --limit x", "line 2"),
        ('\nget ""', "line 2: the key is empty"),
        ("\ntxn", "line 2: 'txn' is not put, get or del"),
        ('\nput "k v', "line 2: a quotation mark"),
        ('\nput k"v w', "line 2: a quotation mark"),
        ('\nput "\\q" v', "line 2: in quotes"),
        ("\n\n\nput k v", "line 4: a transaction has 3 parts"),
    ],
)
def test_a_line_that_is_not_understood_is_named(text, named):
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    assert str(caught.value).startswith(named)
