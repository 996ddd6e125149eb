"""The bytes of feature levels 1 and 2 stay what they are: members of two releases must understand each other."""

import io
import json

import pytest

from node.bonds.wire import messages as bonds
from node.raft import wire
from node.raft.entries import ENTRY_LEVELS, make_entries
from node.raft.types import LOG_START, EntryKind
from node.storage.replay import Replay
from node.sync.evidence import decode_snapshot_untrusted
from tests.node.recorded import transcript

RECORDED = json.loads(transcript.PATH.read_text())
RECORDED_2 = json.loads(transcript.PATH_2.read_text())
WHAT_TO_DO = (
    "the bytes of feature level 1 are no longer what was recorded ({what}). Members of two releases would not "
    "understand each other, and a kept log would not be read. If a release has this level already, leave its "
    "bytes alone and put the change behind the next level: docs/features.md says how. If none has, and the "
    "change is meant, run `python -m tests.node.recorded.transcript`, look at the difference, and say in "
    "CHANGELOG.md that earlier members and logs are refused."
)


@pytest.mark.parametrize("part", sorted(RECORDED))
def test_what_is_written_and_sent_is_what_was_recorded(part):
    present = json.loads(json.dumps(transcript.recorded()[part]))
    recorded = RECORDED[part]
    if present == recorded:
        return
    names = [name for name in {**recorded, **present} if recorded.get(name) != present.get(name)]
    pytest.fail(WHAT_TO_DO.format(what=f"{part}: {', '.join(names)}"), pytrace=False)


@pytest.mark.parametrize("part", sorted(RECORDED_2))
def test_what_level_2_adds_is_what_was_recorded(part):
    assert json.loads(json.dumps(transcript.recorded_2()[part])) == RECORDED_2[part], WHAT_TO_DO.format(
        what=part
    )


def test_what_was_recorded_of_level_2_is_understood():
    messages = RECORDED_2["consensus messages"]
    for message in transcript.consensus_messages_2():
        assert wire.decode_untrusted(bytes.fromhex(messages[type(message).__name__])) == message
    payloads = {name: bytes.fromhex(payload) for name, payload in RECORDED_2["entries"].items()}
    assert decode_snapshot_untrusted(payloads["marker"]) is None
    assert decode_snapshot_untrusted(payloads["evidence"]) == transcript.evidence()


def test_what_was_recorded_is_understood():
    """By the decoders alone: nothing here is encoded by the present code."""
    for message in transcript.consensus_messages():
        data = bytes.fromhex(RECORDED["consensus messages"][type(message).__name__])
        assert wire.decode_untrusted(data) == message, WHAT_TO_DO.format(what=type(message).__name__)
    for message in transcript.bond_messages():
        data = bytes.fromhex(RECORDED["bond messages"][type(message).__name__])
        decoded = bonds.decode_untrusted(data)
        assert decoded == message, WHAT_TO_DO.format(what=type(message).__name__)


def entries():
    parts = [
        (term, EntryKind(entry["kind"]), transcript.START_MS + 1000 * place, bytes.fromhex(entry["payload"]))
        for place, ((_, term, _, _), entry) in enumerate(
            zip(transcript.payloads(), RECORDED["entries"].values(), strict=True)
        )
    ]
    return make_entries(LOG_START, parts)


def test_the_recorded_log_is_chained_and_applied_as_it_was():
    log = entries()
    assert [entry.chain.hex() for entry in log] == [entry["chain"] for entry in RECORDED["entries"].values()]
    assert json.loads(json.dumps(transcript.replayed(log))) == RECORDED["replay"], WHAT_TO_DO.format(
        what="what a log comes to"
    )


def recovered(*segments):
    replay = Replay(transcript.A)
    for segment in segments:
        replay.read(io.BytesIO(bytes.fromhex(segment)), is_last=segment is segments[-1])
    replay.require_whole()
    return replay.entries, replay.summary


def test_the_recorded_file_is_read_as_it_was():
    log, found = recovered(RECORDED["storage"]["file"])
    assert log == list(entries()[:11]), WHAT_TO_DO.format(what="the file of a member")
    assert (found.term, found.voted_for, list(found.ended)) == (4, transcript.C, [transcript.CLUSTER])


def test_the_recorded_segments_are_read_as_they_were():
    segments = RECORDED_2["storage"]["segments"]
    for present in (segments, segments[1:]):
        log, found = recovered(*present)
        assert log == list(transcript.log()[15:])
        assert found.base == transcript.evidence()
        assert (found.term, found.voted_for, list(found.ended)) == (4, transcript.C, [transcript.CLUSTER])


def test_nothing_of_this_level_is_missing():
    kinds = {EntryKind(entry["kind"]) for entry in RECORDED["entries"].values()}
    assert kinds | {EntryKind.SNAPSHOT} == set(ENTRY_LEVELS)
    messages = set(RECORDED["consensus messages"]) | set(RECORDED_2["consensus messages"])
    assert {cls.__name__ for cls in wire._CODECS_BY_TYPE} == messages
    assert {cls.__name__ for cls in bonds._ENCODE} == set(RECORDED["bond messages"])


def test_a_change_of_bytes_is_noticed_and_the_message_gives_the_remedy(monkeypatch):
    monkeypatch.setattr(transcript, "LEVELS", transcript.Levels(1, "example.org/other", 1))
    with pytest.raises(pytest.fail.Exception, match="behind the next level") as failed:
        test_what_is_written_and_sent_is_what_was_recorded("entries")
    assert "entries: genesis" in str(failed.value)
