"""Foreign text is printed in one place, visibly; a value goes out byte by byte."""

import ast
import io
import json
import logging
import os
import pty
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.cli import output
from tests.support.cluster import COMMAND, PROJECT
from tests.test_rules import calls, sources

HOSTILE = "\x1b[2K\x1b[1Gaccepted\r\n[green]x[/green][/nope]\x9b31m\u202e\u2066:smile:"


def test_control_and_bidirectional_characters_are_shown_and_do_nothing():
    shown = output.visible(HOSTILE)
    assert shown == ("\\x1b[2K\\x1b[1Gaccepted\\x0d\\x0a[green]x[/green][/nope]\\x9b31m\\u202e\\u2066:smile:")
    assert output.visible("Grüße, 世界") == "Grüße, 世界"
    assert output.visible("\U000e0001") == "\\U000e0001"


@given(st.text())
def test_what_is_shown_is_always_one_printable_line(text):
    assert output.visible(text).isprintable()


@given(st.binary(), st.binary())
def test_no_two_byte_strings_look_the_same(one, other):
    shown = output.visible_bytes(one)
    assert shown.isprintable()
    assert (shown == output.visible_bytes(other)) == (one == other)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"//79", "//79"),
        (b"\xff\xfe\xfd", "\\xff\\xfe\\xfd"),
        (b"\\xff", "\\\\xff"),
        (b"a\x00b\n", "a\\x00b\\x0a"),
        ("ü\u202e".encode(), "ü\\xe2\\x80\\xae"),
        (b"[x][/nope]", "[x][/nope]"),
    ],
)
def test_binary_keys_do_not_look_like_text_keys(data, shown):
    assert output.visible_bytes(data) == shown


def test_rich_interprets_nothing_in_cells_titles_and_lines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    output.table(("key",), [(HOSTILE,), (("[b]", output.BAD),)], title=HOSTILE)
    output.pairs([(HOSTILE, HOSTILE)], title=HOSTILE)
    output.say(HOSTILE, ("[bold]", output.BAD))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert shown.count("[/nope]") == 6
    assert shown.count(":smile:") == 6
    assert "[b]" in shown
    assert "[bold]" in shown


def test_json_is_ascii_whatever_is_in_it(capsys):
    output.print_json({"key": HOSTILE + "\x7fü"})
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert "\x1b" not in printed
    assert "\x7f" not in printed
    assert json.loads(printed) == {"key": HOSTILE + "\x7fü"}


def test_a_log_line_is_one_line_whatever_a_peer_sent():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(output.VisibleFormatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("bondstone-test-visible")
    logger.propagate = False
    logger.addHandler(handler)
    try:
        raise ValueError("cause")
    except ValueError:
        logger.exception("peer said %s", "x\n2026 INFO all is well\x1b[2K")
    first, *trace = stream.getvalue().splitlines()
    assert first == "ERROR peer said x\\x0a2026 INFO all is well\\x1b[2K"
    assert trace[0] == "Traceback (most recent call last):"


SHOW = "from node.cli import output; output.value_bytes({!r}); output.say(({!r}, output.BAD))"


def test_a_value_is_exactly_its_bytes_unless_a_person_looks_at_it():
    value = bytes(range(256)) + b"no newline at the end"
    code = f"from node.cli import output; output.value_bytes({value!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, check=True, timeout=60
    )
    assert done.stdout == value

    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", SHOW.format(b"a\x1b[31m\xff", "[x]\x1b[2K")], cwd=PROJECT, stdout=follower
    ) as process:
        assert process.wait(60) == 0
    os.close(follower)
    shown = os.read(leader, 10_000).decode()
    os.close(leader)
    assert "a\\x1b[31m\\xff\r\n" in shown
    assert "[x]\\x1b[2K" in shown
    assert "\x1b[2K" not in shown


def test_a_terminal_that_lacks_a_character_does_not_end_the_program(tmp_path):
    done = subprocess.run(
        [*COMMAND, "kv", "get", "ü", "--url", "https://ü.invalid", "--ca", "/nowhere/ü"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT), "PYTHONIOENCODING": "ascii", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "\\xfc" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_line_prints_in_one_place():
    printing = {"print", "Console", "Table", "Console().print", "sys.stdout.write", "sys.stderr.write"}
    found = [
        f"{name}:{line}: {call}"
        for name, tree in sources(without=("node/cli/output.py", "node/simulation/"))
        for line, call in calls(tree)
        if call in printing or call.startswith("sys.stdout.buffer")
    ]
    assert found == [], "use node.cli.output: a terminal obeys what servers and stored values say"
    imports = [
        f"{name}:{node.lineno}"
        for name, tree in sources(without=("node/cli/output.py", "node/simulation/"))
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rich"
    ]
    assert imports == [], "use node.cli.output"
