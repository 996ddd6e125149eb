"""Held against another implementation with fixed seeds; `make fuzz-http2` goes on with others."""

import pytest

from node.http2 import connection
from tests.fuzz.http2 import hold, main


@pytest.mark.parametrize("first", range(0, 48, 8))
def test_what_we_read_the_other_implementation_reads_and_what_we_write_too(first):
    for seed in range(first, first + 8):
        hold(seed)


def first_objection(seeds=40):
    for seed in range(seeds):
        try:
            hold(seed)
        except AssertionError as exc:
            return exc.args[0][-1]
    return None


def test_it_would_be_noticed_if_padding_were_read_as_a_body(monkeypatch):
    monkeypatch.setattr(connection, "unpadded", lambda frame: frame.payload)

    assert first_objection() is not None


def test_it_would_be_noticed_if_the_length_of_a_body_were_not_compared(monkeypatch):
    monkeypatch.setattr(
        connection.ServerConnection,
        "_body_part",
        lambda self, stream, data, events: events.append(
            connection.BodyReceived(stream.id, data, stream.request_ended)
        ),
    )

    assert first_objection(400) in {
        "the other side alone objects",
        "a request that the other side does not see",
    }


def test_the_command_runs_for_its_time_and_names_its_seed(capsys):
    assert main(["0", "7"]) == 0
    assert capsys.readouterr().out == "0 conversations from seed 7: ok\n"
    assert main(["x"]) == 2
