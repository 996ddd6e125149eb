"""The audit log: what it keeps, what it notices, what it survives."""

import json
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.encoding.canonical import digest
from node.audit import AuditChainError, AuditHead, AuditLog, verify_untrusted
from node.audit.chain import DOMAIN, HASH_START, LINE_BYTES_MAX
from node.audit.log import WINDOW_EVENTS
from node.audit.segments import lines_of
from node.errors import ConfigError

NOW = datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)


def now() -> datetime:
    return NOW


_OPEN: list[AuditLog] = []


def opened(path: Path | None) -> AuditLog:
    log = AuditLog(path, now)
    _OPEN.append(log)
    return log


@pytest.fixture(autouse=True)
def close_logs() -> Iterator[None]:
    yield
    while _OPEN:
        _OPEN.pop().close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def filled(path: Path | None, count: int = 5) -> AuditLog:
    log = opened(path)
    for number in range(count):
        log.append("bond-refused", number=number)
    return log


def test_an_event_has_the_documented_form() -> None:
    log = opened(None)
    event = log.append("bond-refused", reason="td-debug", peer_id=b"\xab" * 2, at_worst=NOW)
    body = {
        "seq": 1,
        "at": "2026-01-31T12:00:00.250000Z",
        "kind": "bond-refused",
        "reason": "td-debug",
        "peer_id": "abab",
        "at_worst": "2026-01-31T12:00:00.250000Z",
    }

    assert event == {
        **body,
        "prev": HASH_START,
        "hash": digest(DOMAIN, bytes(32), body).hex(),
    }
    assert log.head() == AuditHead(seq=1, hash=event["hash"])


def test_each_event_names_the_one_before(path: Path) -> None:
    log = filled(path)
    events = log.events()

    assert [event["seq"] for event in events] == [1, 2, 3, 4, 5]
    assert [event["prev"] for event in events[1:]] == [event["hash"] for event in events[:-1]]
    assert log.verify().head == log.head()


def test_an_event_is_in_the_file_when_append_returns(path: Path) -> None:
    log = opened(path)
    event = log.append("bond-admitted")

    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [event]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_restart_continues_the_chain(path: Path) -> None:
    first = filled(path)
    first.close()
    second = opened(path)
    event = second.append("bond-admitted")

    assert event["seq"] == 6
    assert event["prev"] == first.head().hash
    assert second.verify().head == second.head()
    assert [item["seq"] for item in second.events(after=3)] == [4, 5, 6]


# ---- tampering ------------------------------------------------------------------------
def change_event(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[2].replace(b'"number":2', b'"number":9'), *lines[3:]]


def remove_event(lines: list[bytes]) -> list[bytes]:
    return lines[:2] + lines[3:]


def swap_events(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[3], lines[2], lines[4]]


def insert_event(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[1], *lines[2:]]


def rehash_event(lines: list[bytes]) -> list[bytes]:
    """A changed event with a hash that fits it: only the next one shows it."""
    event = json.loads(lines[1]) | {"number": 9}
    body = {key: value for key, value in event.items() if key not in {"prev", "hash"}}
    event["hash"] = digest(DOMAIN, bytes.fromhex(event["prev"]), body).hex()
    return [lines[0], json.dumps(event).encode() + b"\n", *lines[2:]]


def tear_off(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[2][:-20]]


def no_newline(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[2][:-1]]


def garbage(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], b"\xff\x00\n", *lines[3:]]


def too_long(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], b" " * (2 * LINE_BYTES_MAX) + b"\n", *lines[3:]]


def deep(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], b"[" * 50_000 + b"\n", *lines[3:]]


def floats(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[2].replace(b'"number":2', b'"number":NaN'), *lines[3:]]


def repeated_member(lines: list[bytes]) -> list[bytes]:
    """A reader that takes the first of two would see another event than the one that was hashed."""
    return [*lines[:2], lines[2].replace(b'"number":2', b'"number":9,"number":2'), *lines[3:]]


TAMPERING: list[tuple[Callable[[list[bytes]], list[bytes]], str]] = [
    (change_event, "hash-mismatch"),
    (remove_event, "seq-gap"),
    (swap_events, "seq-gap"),
    (insert_event, "seq-gap"),
    (rehash_event, "chain-broken"),
    (tear_off, "not-json"),
    (garbage, "not-json"),
    (too_long, "line-too-long"),
    (deep, "not-json"),
    (floats, "not-json"),
    (repeated_member, "not-json"),
]


@pytest.mark.parametrize(("tamper", "reason"), TAMPERING, ids=lambda item: getattr(item, "__name__", ""))
def test_the_first_bad_event_is_named(
    tamper: Callable[[list[bytes]], list[bytes]], reason: str, path: Path
) -> None:
    filled(path).close()
    path.write_bytes(b"".join(tamper(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(AuditChainError) as caught:
        verify_untrusted(lines_of(path))

    assert caught.value.reason == reason
    assert caught.value.seq == 3


@pytest.mark.parametrize(
    "tamper", [tamper for tamper, _ in TAMPERING] + [no_newline], ids=lambda item: item.__name__
)
def test_a_broken_file_is_put_aside_and_the_log_goes_on_behind_what_was_good(
    tamper: Callable[[list[bytes]], list[bytes]], path: Path
) -> None:
    filled(path).close()
    broken = b"".join(tamper(path.read_bytes().splitlines(keepends=True)))
    path.write_bytes(broken)
    good = [json.loads(line) for line in broken.splitlines()[:2]]
    log = opened(path)
    *kept, event = log.events()

    assert kept == good
    assert event["kind"] == "audit-chain-broken"
    assert (event["seq"], event["prev"]) == (3, good[-1]["hash"])
    assert event["first_bad_seq"] == 3
    assert event["last_good_hash"] == good[-1]["hash"]
    (aside,) = event["put_aside"]
    assert path.with_name(aside).read_bytes() == broken
    log.append("bond-admitted")
    log.close()
    again = opened(path)

    assert [one["kind"] for one in again.events()[2:]] == ["audit-chain-broken", "bond-admitted"]
    assert again.verify().head == AuditHead(seq=4, hash=again.events()[-1]["hash"])


def test_two_broken_files_are_both_kept(path: Path) -> None:
    for _ in range(2):
        path.write_bytes(b"garbage\n")
        opened(path).close()

    assert sorted(item.name for item in path.parent.iterdir()) == [
        "audit.jsonl",
        "audit.jsonl.broken-1",
        "audit.jsonl.broken-2",
        "audit.jsonl.lock",
    ]


def test_a_log_that_was_cut_is_only_noticed_by_a_kept_hash(path: Path) -> None:
    """The limit that the documents state: the chain alone cannot show that its end is missing."""
    log = filled(path)
    kept = log.head()
    log.close()
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))

    assert verify_untrusted(lines_of(path)) != kept


def test_a_run_can_be_verified_from_a_kept_hash(path: Path) -> None:
    log = filled(path)
    lines = path.read_bytes().splitlines()
    kept = AuditHead(seq=2, hash=log.events()[1]["hash"])

    assert verify_untrusted(lines[2:], after=kept) == log.head()
    with pytest.raises(AuditChainError, match="chain-broken"):
        verify_untrusted(lines[2:], after=AuditHead(seq=2, hash="ab" * 32))


def test_two_processes_do_not_write_the_same_log(path: Path) -> None:
    log = opened(path)
    with pytest.raises(ConfigError, match="in use by another running node"):
        opened(path)
    log.close()
    opened(path).close()


def test_a_place_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make the directory"):
        AuditLog(tmp_path / "file" / "audit.jsonl", now)


# ---- reading ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("after", "limit", "expected"),
    [(0, 3, [1, 2, 3]), (3, 100, [4, 5]), (5, 100, []), (99, 1, []), (0, 0, []), (-7, 2, [1, 2])],
)
@pytest.mark.parametrize("in_file", [True, False])
def test_events_after_a_number(
    after: int, limit: int, expected: list[int], in_file: bool, path: Path
) -> None:
    log = filled(path if in_file else None)

    assert [event["seq"] for event in log.events(after, limit)] == expected


def test_old_events_are_read_from_the_file(path: Path) -> None:
    count = 2 * WINDOW_EVENTS + 10
    log = filled(path, count)
    for after in (0, 7, WINDOW_EVENTS - 1, WINDOW_EVENTS, WINDOW_EVENTS + 11, count - 3):
        events = log.events(after, 3)

        assert [event["seq"] for event in events] == [after + 1, after + 2, after + 3]
        assert [event["number"] for event in events] == [after, after + 1, after + 2]
    log.close()
    again = opened(path)

    assert [event["seq"] for event in again.events(WINDOW_EVENTS + 1, 2)] == [
        WINDOW_EVENTS + 2,
        WINDOW_EVENTS + 3,
    ]


def test_memory_alone_keeps_the_recent_events() -> None:
    log = filled(None, WINDOW_EVENTS + 10)

    assert log.events(0, 1)[0]["seq"] == 11
    assert log.verify().head == log.head()


# ---- what goes in --------------------------------------------------------------------------
json_like: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.from_regex(r"[a-z]{3,8}", fullmatch=True), json_like, max_size=4))
def test_whatever_goes_in_verifies_when_it_is_read_back(fields: dict[str, Any]) -> None:
    for name in ("seq", "kind", "prev", "hash"):
        fields.pop(name, None)
    log = opened(None)
    event = log.append("test", **fields)
    line = json.dumps(event).encode()

    assert verify_untrusted([line]) == log.head()


def test_texts_are_cut_and_times_are_utc() -> None:
    log = opened(None)
    local = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    event = log.append("test", long="x" * 100_000, when=local, lone="\ud800")

    assert len(event["long"]) == 4096
    assert event["when"] == "2026-01-01T00:00:00.000000Z"
    assert event["lone"] == "?"


def test_an_event_that_is_too_large_is_recorded_as_such(path: Path) -> None:
    log = opened(path)
    event = log.append("bond-refused", values=["x" * 4000] * 100)

    assert event["kind"] == "bond-refused"
    assert event["too_large"] is True
    assert log.verify().head == log.head()
