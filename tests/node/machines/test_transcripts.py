"""Every built-in machine still does what its signature stands for.

REWRITE=1 records a machine whose signature is not the recorded one, or that has no file yet.
"""

import importlib.util
import inspect
import json
import os
import sys
from pathlib import Path

import pytest

from node.machines.collections.machine import CollectionsMachine
from node.machines.counter import Counter
from node.machines.kv import KeyValue
from node.machines.kv.commands import apply_list
from node.machines.loader import BUILT_IN
from node.machines.noop import NoOp
from tests.node.machines.transcript import (
    commands_of,
    operations_of,
    replay,
    source_of,
    state_digest,
    transcript_of,
)

FILES = Path(__file__).parent / "transcripts"


def check(name, machine_class):
    """Compare a machine with its transcript; return what is wrong with it, for people."""
    path = FILES / f"{name}.json"
    signature = machine_class().signature
    recorded = json.loads(path.read_text()) if path.exists() else None
    if recorded is None or recorded["signature"] != signature:
        if os.environ.get("REWRITE"):
            write(path, transcript_of(machine_class, commands_of(name)))
            return ""
        return f"{signature} has no transcript: record it with REWRITE=1 and read the difference"
    now = transcript_of(machine_class, recorded["steps"])
    if now == recorded:
        return ""
    what = next(
        (
            f"{old} became {new}"
            for old, new in zip(recorded["steps"], now["steps"], strict=True)
            if old != new
        ),
        "its state at the end is another"
        if now["state"] != recorded["state"]
        else f"its source has other words or numbers: {differing(recorded['source'], now['source'])}",
    )
    return (
        f"{name} is not what {signature} stands for: {what[:600]}. Members of two releases would come to "
        "different states under one signature: bump the signature, then record anew with REWRITE=1. (Only if no "
        f"command, result or limit is another, as after a renaming: delete {path.name} and record it.)"
    )


def differing(before, after):
    return sorted(
        set(map(str, [*before["words"], *before["numbers"]]))
        ^ set(map(str, [*after["words"], *after["numbers"]]))
    )


def write(path, transcript):
    head = {key: transcript[key] for key in ("signature", "source", "state")}
    steps = ",\n".join(json.dumps(step, ensure_ascii=True) for step in transcript["steps"])
    path.write_text(json.dumps(head, ensure_ascii=True)[:-1] + ',\n"steps": [\n' + steps + "\n]}\n")


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_built_in_machine_does_what_its_signature_stands_for(name):
    assert check(name, BUILT_IN[name]) == ""


def test_the_transcript_of_the_key_value_machine_has_every_command():
    steps = json.loads((FILES / "kv.json").read_text())["steps"]
    commands = [step["command"] for step in steps]
    recorded = {one["op"] for one in commands if isinstance(one, dict) and isinstance(one.get("op"), str)}

    assert operations_of(KeyValue.apply) <= recorded


def test_the_transcript_of_the_key_value_machine_has_every_command_that_is_a_list():
    steps = json.loads((FILES / "kv.json").read_text())["steps"]
    commands = [step["command"] for step in steps]

    assert operations_of(apply_list) <= {one[0] for one in commands if isinstance(one, list) and one}


def test_version_2_of_the_key_value_machine_does_what_it_always_did():
    recorded = json.loads((FILES / "kv-v2.json").read_text())
    machine = KeyValue()

    assert replay(machine, recorded["steps"], version=2) == recorded["steps"]
    assert state_digest(machine) == recorded["state"]


def changed(monkeypatch, path, machine_class, old, new):
    """Return the machine of a release in which ``old`` became ``new``."""
    source = Path(inspect.getsourcefile(machine_class)).read_text()
    assert old in source
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location("changed_machine", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return getattr(module, machine_class.__name__)


@pytest.mark.parametrize(
    ("name", "machine_class", "old", "new", "shows"),
    [
        ("kv", KeyValue, 'case "put":', 'case "put" | "set":', "other words or numbers: ['set']"),
        ("kv", KeyValue, 'wants_previous = fields.boolean("prev")', "wants_previous = False", "became"),
        (
            "kv",
            KeyValue,
            '"key", bytes_max=KEY_BYTES_MAX',
            '"key", bytes_max=KEY_BYTES_MAX // 2',
            "became",
        ),
        ("kv", KeyValue, "list(frozen.items())", "list(frozen.items())[1:]", "its state"),
        ("counter", Counter, "VALUE_MAX: Final = 2**63 - 1", "VALUE_MAX: Final = 2**62 - 1", "became"),
        ("noop", NoOp, "return None", "return 0", "became"),
        ("collections", CollectionsMachine, 'case "drop":', 'case "drop" | "remove":', "['remove']"),
        ("collections", CollectionsMachine, "S_MAX: Final = 1024", "S_MAX: Final = 1000", "became"),
    ],
)
def test_a_change_under_the_old_signature_fails_with_the_advice_to_bump_it(
    tmp_path, monkeypatch, name, machine_class, old, new, shows
):
    monkeypatch.setenv("REWRITE", "1")  # not even then is it recorded as if it were the same
    before = (FILES / f"{name}.json").read_bytes()
    machine = changed(monkeypatch, tmp_path / "changed_machine.py", machine_class, old, new)
    told = check(name, machine)

    assert "bump the signature" in told
    assert shows in told
    assert (FILES / f"{name}.json").read_bytes() == before


def test_a_machine_without_a_transcript_fails_until_it_is_recorded(monkeypatch):
    monkeypatch.delenv("REWRITE", raising=False)

    class Next(Counter):
        signature = "bondstone/counter/v99"

    assert "record it with REWRITE=1" in check("counter", Next)


def test_a_state_that_differs_shows_though_every_result_is_the_same():
    class Forgetful(KeyValue):
        def snapshot(self):
            return [item for item in super().snapshot() if item[0] != "log"]

    recorded = json.loads((FILES / "kv.json").read_text())

    assert transcript_of(Forgetful, recorded["steps"])["steps"] == recorded["steps"]
    assert "bump the signature" in check("kv", Forgetful)


def test_a_limit_that_changes_shows_in_the_numbers_of_the_source():
    numbers = source_of(KeyValue())["numbers"]

    assert {1024, 256, 10_000, 16, 160, 128} <= set(numbers)
