"""The audit log over several files: one chain, bounded, and honest about what is gone."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import node.audit.log as log_module
from node.audit import (
    AuditChainError,
    AuditHead,
    AuditLimits,
    AuditLog,
    lines_of_log,
    verify_kept_untrusted,
    verify_untrusted,
)
from node.audit.chain import EMPTY, hash_of, line_of

SMALL = AuditLimits(segment_bytes=2000, segments_max=100)
FEW = AuditLimits(segment_bytes=2000, segments_max=3)
_OPEN: list[AuditLog] = []


def opened(path: Path, limits: AuditLimits = SMALL) -> AuditLog:
    log = AuditLog(path, lambda: datetime(2026, 1, 31, tzinfo=UTC), limits)
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


def filled(path: Path, count: int = 40, limits: AuditLimits = SMALL) -> AuditLog:
    log = opened(path, limits)
    for number in range(count):
        log.append("bond-refused", number=number)
    return log


def closed(path: Path, count: int = 40, limits: AuditLimits = SMALL) -> AuditHead:
    log = filled(path, count, limits)
    log.close()
    return log.head()


def segments(path: Path) -> list[Path]:
    return sorted(path.parent.glob("audit-*.jsonl"))


def everything(log: AuditLog, page: int = 7) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    while more := log.events(events[-1]["seq"] if events else 0, page):
        events += more
    return events


@pytest.fixture
def no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the last event is read from the files."""
    monkeypatch.setattr(log_module, "WINDOW_EVENTS", 1)


# ---- one chain over all files -------------------------------------------------------------
def test_a_full_file_gets_the_number_of_its_first_event_and_the_chain_goes_on(path: Path) -> None:
    log = filled(path)
    parts = segments(path)

    assert len(parts) >= 4
    assert all(2000 <= part.stat().st_size < 2500 for part in parts)
    head = EMPTY
    for part in [*parts, path]:
        lines = part.read_bytes().splitlines()
        first = json.loads(lines[0])
        if part != path:
            assert part.name == f"audit-{first['seq']:012}.jsonl"
        if head != EMPTY:
            assert first["kind"] == "audit-segment-begun"
            assert first["prev"] == head.hash
        head = verify_untrusted(lines, after=head)
    assert head == log.head()
    assert log.verify().after == EMPTY
    assert log.verify().head == head


@pytest.mark.usefixtures("no_window")
@pytest.mark.parametrize("page", [1, 7, 1000])
def test_pages_go_on_over_the_ends_of_files(path: Path, page: int) -> None:
    log = filled(path)
    events = everything(log, page)

    assert [event["seq"] for event in events] == list(range(1, log.head().seq + 1))
    assert [event["number"] for event in events if "number" in event] == list(range(40))
    assert verify_untrusted(map(line_of, events)) == log.head()


@pytest.mark.usefixtures("no_window")
def test_a_restart_reads_the_last_file_only_and_serves_all(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = closed(path)
    read: list[str] = []
    real = log_module.lines_of

    def spy(file: Path) -> Iterator[bytes]:
        read.append(file.name)
        return real(file)

    monkeypatch.setattr(log_module, "lines_of", spy)
    log = opened(path)

    assert read == ["audit.jsonl"]
    assert log.head() == head
    assert len(everything(log)) == head.seq
    log.append("bond-admitted")
    assert log.verify().head == log.head()


# ---- what is deleted is recorded ------------------------------------------------------------------
@pytest.mark.usefixtures("no_window")
def test_the_oldest_file_is_removed_and_an_event_records_what_was_removed(path: Path) -> None:
    log = filled(path, 100, FEW)
    parts = segments(path)
    events = everything(log)
    deleted = [event for event in events if event["kind"] == "audit-segment-deleted"]

    assert len(parts) == 2
    assert events[0]["seq"] > 1
    assert deleted[-1]["gone_to_seq"] == events[0]["seq"] - 1
    assert deleted[-1]["last_hash"] == events[0]["prev"]
    chain = log.verify()
    assert chain.after == AuditHead(seq=events[0]["seq"] - 1, hash=events[0]["prev"])
    assert chain.head == log.head()
    log.close()
    assert opened(path, FEW).head() == log.head()


def test_a_missing_beginning_without_its_event_is_found(path: Path) -> None:
    closed(path)
    segments(path)[0].unlink()
    with pytest.raises(AuditChainError) as caught:
        verify_kept_untrusted(lines_of_log(path))

    assert caught.value.reason == "start-missing"


def test_it_would_pass_if_a_chain_could_begin_anywhere(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed(path)
    segments(path)[0].unlink()
    monkeypatch.setattr("node.audit.chain.gone_to", lambda _event: 10**9)

    assert verify_kept_untrusted(lines_of_log(path)).after.seq > 0


def test_a_file_missing_in_the_middle_is_found_when_it_is_asked_for(path: Path, no_window: None) -> None:
    log = filled(path)
    gone = segments(path)[1]
    gone.unlink()
    seq = int(gone.stem.removeprefix("audit-"))

    with pytest.raises(AuditChainError) as caught:
        log.verify()
    assert (caught.value.seq, caught.value.reason) == (seq, "seq-gap")
    with pytest.raises(AuditChainError) as caught:
        everything(log)
    assert (caught.value.seq, caught.value.reason) == (seq, "segment-missing")
    assert log.events(seq - 2, 1)[0]["seq"] == seq - 1


@pytest.mark.usefixtures("no_window")
@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [(b'"number":1,', b'"number":7,', "hash-mismatch"), (b"\n", b"\n\n", "not-json")],
)
def test_an_old_file_that_was_changed_is_never_served_as_if_it_were_not(
    path: Path, old: bytes, new: bytes, reason: str
) -> None:
    log = filled(path)
    first = segments(path)[0]
    first.write_bytes(first.read_bytes().replace(old, new, 1))
    with pytest.raises(AuditChainError) as caught:
        everything(log)

    assert caught.value.reason == reason


@pytest.mark.usefixtures("no_window")
def test_a_page_that_would_begin_elsewhere_is_refused(path: Path) -> None:
    log = filled(path)
    first = segments(path)[0]
    lines = first.read_bytes().splitlines(keepends=True)
    first.write_bytes(b"".join(lines[1:]))
    with pytest.raises(AuditChainError) as caught:
        log.events(2, 1)

    assert (caught.value.seq, caught.value.reason) == (3, "seq-gap")


# ---- crashes in between, and a host that plays with the files -----------------------------------
def test_a_crash_between_the_old_file_and_the_new_one_loses_nothing(path: Path) -> None:
    head = closed(path)
    path.rename(path.with_name(f"audit-{json.loads(path.read_bytes().splitlines()[0])['seq']:012}.jsonl"))
    log = opened(path)
    assert log.head() == head
    assert log.verify().head == head


def test_an_emptied_file_behind_full_ones_is_a_broken_chain_that_loses_no_other_event(path: Path) -> None:
    head = closed(path)
    path.rename(path.with_name(f"audit-{json.loads(path.read_bytes().splitlines()[0])['seq']:012}.jsonl"))
    path.write_bytes(b"")
    log = opened(path)
    assert log.verify().head == log.head()
    broken = everything(log)[-1]
    assert (broken["kind"], broken["reason"]) == ("audit-chain-broken", "emptied")
    assert (broken["seq"], broken["prev"]) == (head.seq + 1, head.hash)


def test_a_tail_torn_by_a_crash_costs_that_event_only_and_all_others_are_served(
    path: Path, no_window: None
) -> None:
    head = closed(path)
    os.truncate(path, path.stat().st_size - 5)
    log = opened(path)
    events = everything(log)

    assert [event["seq"] for event in events] == list(range(1, head.seq + 1))
    assert events[-1]["kind"] == "audit-chain-broken"
    assert events[-1]["first_bad_seq"] == head.seq
    assert log.verify().after == EMPTY


def test_a_last_file_that_is_bad_from_its_beginning_leaves_the_older_ones(
    path: Path, no_window: None
) -> None:
    closed(path)
    first = json.loads(path.read_bytes().splitlines()[0])
    path.write_bytes(b"garbage\n" + path.read_bytes())
    log = opened(path)
    events = everything(log)

    assert (events[-1]["kind"], events[-1]["seq"]) == ("audit-chain-broken", first["seq"])
    assert events[-1]["prev"] == first["prev"]
    assert log.verify().after == EMPTY


def substitute_an_older_file(path: Path) -> None:
    shutil.copy(segments(path)[1], path)


def cut_the_file_before(path: Path) -> None:
    os.truncate(segments(path)[-1], 1000)


def take_the_files_before(path: Path) -> None:
    for part in segments(path):
        part.unlink()


@pytest.mark.parametrize("play", [substitute_an_older_file, cut_the_file_before, take_the_files_before])
def test_files_that_do_not_follow_each_other_are_put_aside_and_not_served(path: Path, play: Any) -> None:
    closed(path)
    play(path)
    start = json.loads(path.read_bytes().splitlines()[0])["seq"] - 1
    before = segments(path)
    log = opened(path)
    event = log.events(log.head().seq - 1)[0]

    assert event["kind"] == "audit-chain-broken"
    assert event["reason"] == "predecessor-missing"
    assert event["gone_to_seq"] == start
    assert event["put_aside"] == [f"{part.name}.broken-1" for part in before]
    assert segments(path) == []
    assert log.verify().after.seq == start


def test_a_first_event_that_claims_a_past_is_refused() -> None:
    event = {"seq": 1, "at": "", "kind": "x", "prev": "ab" * 32}
    event["hash"] = hash_of(event)
    with pytest.raises(AuditChainError, match="chain-broken"):
        verify_kept_untrusted([line_of(event)])


# ---- a disk that takes nothing ---------------------------------------------------------------------
@pytest.mark.parametrize("cuts_back", [True, False])
@pytest.mark.parametrize("written", [0, 17, None])
def test_what_a_full_disk_did_not_take_is_counted_and_breaks_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, written: int | None, cuts_back: bool
) -> None:
    """A file system that became read-only does not even let the half of a line be cut off."""
    log = filled(path, 2)
    real, real_cut = os.write, os.ftruncate

    def read_only(descriptor: int, size: int) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def full(descriptor: int, data: bytes) -> int:
        if written is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:written])

    monkeypatch.setattr(os, "write", full)
    if not cuts_back:
        monkeypatch.setattr(os, "ftruncate", read_only)
    assert log.append("bond-refused", number=2) is None
    assert log.append("bond-refused", number=3) is None
    monkeypatch.setattr(os, "write", real)
    monkeypatch.setattr(os, "ftruncate", real_cut)
    log.append("bond-refused", number=4)

    assert [event.get("number", event.get("count")) for event in log.events()] == [0, 1, 2, 4]
    assert log.events()[2]["kind"] == "audit-events-lost"
    assert log.verify().head == log.head()


def test_without_room_for_a_new_file_the_old_one_grows_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def nothing_new(name: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT and not Path(name).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(name, flags, mode)

    log = opened(path)
    monkeypatch.setattr(os, "open", nothing_new)
    for number in range(40):
        log.append("bond-refused", number=number)
    assert segments(path) == []
    monkeypatch.setattr(os, "open", real)
    log.append("bond-refused", number=40)

    assert len(segments(path)) == 1
    assert log.verify().head == log.head()
