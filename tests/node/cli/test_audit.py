"""`bondstone audit verify` over the files of a node."""

import json
from datetime import UTC, datetime

import pytest

from node.audit import AuditLimits, AuditLog
from tests.support.cluster import cli


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def written(path, segments_max):
    log = AuditLog(
        path,
        lambda: datetime(2026, 1, 31, tzinfo=UTC),
        AuditLimits(segment_bytes=2000, segments_max=segments_max),
    )
    for number in range(60):
        log.append("bond-refused", number=number)
    log.close()
    return log.head()


def test_all_files_are_checked_given_the_last_one(path):
    head = written(path, 100)
    run = cli("audit", "verify", path)

    assert run.returncode == 0
    assert run.stdout.splitlines() == [
        f"intact: {head.seq} events, head {head.hash}",
        f"events 1 to {head.seq}: no signature covers where they begin",
        f"store this elsewhere, and pass it to --head next time: {head.seq}:{head.hash}",
    ]


def test_a_change_in_an_old_file_is_found(path):
    written(path, 100)
    old = min(path.parent.glob("audit-*.jsonl"))
    old.write_bytes(old.read_bytes().replace(b'"number":3', b'"number":4'))
    run = cli("audit", "verify", path)

    assert run.returncode == 1
    assert run.stdout == "broken: event 4: was changed after it was written [hash-mismatch]\n"


def test_it_reports_from_where_on_a_shortened_log_is_checked(path):
    head = written(path, 3)
    run = cli("audit", "verify", path)
    answer = json.loads(cli("audit", "verify", path, "--json").stdout)

    assert run.returncode == 0
    assert answer["seq"] == head.seq
    assert answer["after"] > 0
    assert run.stdout.startswith(
        f"intact: events {answer['after'] + 1} to {head.seq} (older ones were deleted), head {head.hash}"
    )


def test_a_file_that_is_not_there_is_named(path):
    run = cli("audit", "verify", path)

    assert run.returncode == 2
    assert run.stderr == f"error: {path} is no file: give a node's audit.jsonl\n"
