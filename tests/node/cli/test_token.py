"""`bondstone token`: what is printed, and what is refused before any group is asked."""

import hashlib
import json
import tomllib
from datetime import UTC, datetime, timedelta

import pytest

from node.cli.token import _end
from tests.support.cluster import cli


def test_offline_it_prints_the_table_of_a_founding_list_and_the_token_beside_it():
    run = cli(
        "token", "new", "shop", "--role", "read", "--role", "write", "--prefix", 'a"b/', "--prefix", "é/",
        "--expires", "2030-01-01T00:00:00Z", "--offline", "--json",
    )  # fmt: skip
    answer = json.loads(run.stdout)

    assert run.returncode == 0
    assert tomllib.loads(answer["table"])["access"]["token"] == [
        {
            "name": "shop",
            "sha256": hashlib.sha256(answer["token"].encode()).hexdigest(),
            "roles": ["read", "write"],
            "prefixes": ['a"b/', "é/"],
            "expires_at": datetime(2030, 1, 1, tzinfo=UTC),
        }
    ]
    assert answer["token"] not in answer["table"]


def test_what_is_printed_for_people_can_be_put_into_a_document_as_it_is():
    run = cli("token", "new", "ops", "--role", "admin", "--offline")
    token = run.stdout.splitlines()[-1].removeprefix("# ")

    (table,) = tomllib.loads(run.stdout)["access"]["token"]
    assert table["sha256"] == hashlib.sha256(token.encode()).hexdigest()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-x"], "No such option"),
        (["a b"], "name"),
        (["x", "--prefix", "a"], "prefixes"),
        (["x", "--expires", "soon"], "soon"),
        (["x", "--expires", "0d"], "0d"),
    ],
)
def test_what_no_group_would_take_is_refused_before_any_is_asked(arguments, says):
    run = cli("token", "new", *arguments, "--role", "admin", "--url", "https://127.0.0.1:1")

    assert run.returncode == 2
    assert says in run.stderr


def test_a_time_is_given_absolutely_or_relative_to_now():
    now = datetime(2026, 1, 1, 0, 0, 0, 5, tzinfo=UTC)
    today = now.replace(microsecond=0)

    assert _end("30m", now) == today + timedelta(minutes=30)
    assert _end("12h", now) == today + timedelta(hours=12)
    assert _end("90d", now) == today + timedelta(days=90)
    assert _end("2030-01-01T00:00:00+02:00", now) == datetime(2029, 12, 31, 22, tzinfo=UTC)
