"""The lines that processes report: each event is one JSON object, whose bytes programs rely on."""

import json
from typing import get_args

import msgspec
import pytest

from node.process_events import (
    BecameReady,
    ClusterReady,
    ClusterStopped,
    ConfigurationRefused,
    ConsoleLine,
    DevEvent,
    DevNodeView,
    FetchingState,
    FirstBond,
    GroupDocumentRead,
    GuestEnded,
    GuestsEvent,
    GuestsPrepared,
    GuestStarted,
    KeyProvisioned,
    Listening,
    MachineNotMeasured,
    NodeBonded,
    NodeEvent,
    NodeExited,
    NodeNotReady,
    NodeReadyAgain,
    NodeStarted,
    NodeStopped,
    NoLongerReady,
    ProcessEvent,
    ReadyAgain,
    StartRefused,
    read_guests_event,
    read_node_event,
)

VIEW = DevNodeView(name="n", pid=1, api="https://a", bond="b", peer_id="ab", data_dir="d", command="c")
LINES = {
    MachineNotMeasured("n", "m:M", "why"): (
        '{"event": "machine-not-measured", "name": "n", "state_machine": "m:M", "message": "why"}'
    ),
    Listening("n", 7, "https://a", "b", "ab", None, True): (
        '{"event": "listening", "name": "n", "pid": 7, "api": "https://a", "bond": "b", "peer_id": "ab", '
        '"group_id": null, "mock": true}'
    ),
    FirstBond(): '{"event": "bonded"}',
    BecameReady("ab"): '{"event": "ready", "cluster": "ab"}',
    NoLongerReady("halted", "dé"): '{"event": "not-ready", "reason": "halted", "message": "d\\u00e9"}',
    ReadyAgain(): '{"event": "ready-again"}',
    FetchingState(5, 9, 2, 3): (
        '{"event": "fetching-state", "done": 5, "total": 9, "peers": 2, "bytes_per_s": 3}'
    ),
    KeyProvisioned("ab"): '{"event": "provisioned", "group_id": "ab"}',
    NodeStopped("n"): '{"event": "stopped", "name": "n"}',
    GroupDocumentRead("ab", False): '{"event": "group-document", "sha384": "ab", "measured": false}',
    ConfigurationRefused("r", "m"): '{"event": "configuration-refused", "reason": "r", "message": "m"}',
    StartRefused("E", "m"): '{"event": "refused", "error": "E", "message": "m"}',
    NodeStarted("n", 7): '{"event": "node-started", "name": "n", "pid": 7}',
    NodeBonded("n"): '{"event": "node-bonded", "name": "n"}',
    NodeNotReady("r", "m", "n"): '{"event": "node-not-ready", "reason": "r", "message": "m", "name": "n"}',
    NodeReadyAgain("n"): '{"event": "node-ready-again", "name": "n"}',
    NodeExited("n", 7, -9, False, "l", "c"): (
        '{"event": "node-exited", "name": "n", "pid": 7, "code": -9, "expected": false, "log": "l", '
        '"restart": "c"}'
    ),
    ClusterReady("ab", (VIEW,), "t", "ca"): (
        '{"event": "ready", "group_id": "ab", "nodes": [{"name": "n", "pid": 1, "api": "https://a", '
        '"bond": "b", "peer_id": "ab", "data_dir": "d", "command": "c"}], "token": "t", "ca": "ca"}'
    ),
    ClusterStopped(): '{"event": "stopped"}',
    GuestsPrepared(True, "g", "p", "r", "t", ("u",)): (
        '{"event": "group", "mock": true, "group_document": "g", "policy": "p", "trust_root": "r", '
        '"token_file": "t", "urls": ["u"]}'
    ),
    GuestStarted(0, 7, "c", "https://a", "b", "i"): (
        '{"event": "guest-started", "number": 0, "pid": 7, "console": "c", "api": "https://a", '
        '"bond": "b", "image": "i"}'
    ),
    GuestStarted(0, 7, "c", "https://a"): (
        '{"event": "guest-started", "number": 0, "pid": 7, "console": "c", "api": "https://a"}'
    ),
    GuestStarted(0, 7, "c", bridge="br0"): (
        '{"event": "guest-started", "number": 0, "pid": 7, "console": "c", "bridge": "br0"}'
    ),
    GuestEnded(0, 1): '{"event": "guest-ended", "number": 0, "exit_code": 1}',
}
CONSOLE = ConsoleLine(0, {"event": "ready", "pid": 1, "more": [1.5, None]})
CONSOLE_LINE = '{"event": "console", "number": 0, "line": {"event": "ready", "pid": 1, "more": [1.5, null]}}'


def line_of(event: ProcessEvent) -> str:
    return json.dumps(event.fields())


@pytest.mark.parametrize(("event", "line"), [*LINES.items(), (CONSOLE, CONSOLE_LINE)])
def test_an_event_is_this_line_and_its_reader_gets_the_same_value(event, line):
    assert line_of(event) == line
    readers = [kinds for kinds in (NodeEvent, DevEvent, GuestsEvent) if type(event) in get_args(kinds)]
    assert [msgspec.json.decode(line, type=kinds) for kinds in readers] == [event] * len(readers)


def test_the_table_has_every_event():
    known = {*get_args(NodeEvent), *get_args(DevEvent), *get_args(GuestsEvent)}
    assert {type(event) for event in (*LINES, CONSOLE)} >= known


@pytest.mark.parametrize("line", [b"", b"Traceback", b"[]", b'{"event": 1}', b'{"event": "vitals"}', b"\xff"])
def test_another_line_of_a_node_is_no_event(line):
    assert read_node_event(line) is None


def test_an_event_of_a_node_with_other_fields_is_an_error():
    with pytest.raises(msgspec.ValidationError):
        read_node_event(b'{"event": "ready"}')


@pytest.mark.parametrize("line", ["", "Traceback", '{"event": "listening"}', '{"event": "guest-ended"}'])
def test_every_line_of_the_runner_is_an_event(line):
    with pytest.raises(msgspec.DecodeError):
        read_guests_event(line)
