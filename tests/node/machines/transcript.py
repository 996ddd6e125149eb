"""What a machine did with some commands when its signature was last changed, as a file.

Members of one group may run different releases, and what they apply must come out equal. A machine's signature
says so; the file says what it stands for: commands, results or refusals, and the digest of the state at the
end. Its ``words`` and ``numbers`` are those of the machine's source: an operation, a member of a command, a
refusal or a limit that is new shows there, although no recorded command knows of it.
"""

import ast
import hashlib
import inspect
import itertools
import json
import random

from attestation.encoding.canonical import encode
from node.machines.base import ApplyContext, CommandError

LONG = 400  # characters of JSON; of a longer result the digest is recorded


def context(index, sub=0):
    """Return where the ``index``-th entry was: the same for ever."""
    return ApplyContext(term=1, index=index, sub=sub, time_ms=1_700_000_000_000 + index, group_id=bytes(32))


def expand(value):
    """Return a command as it is applied: ``{"$repeat": [text, count]}`` stands for long text."""
    if isinstance(value, dict):
        if set(value) == {"$repeat"}:
            text, count = value["$repeat"]
            return text * count
        return {key: expand(item) for key, item in value.items()}
    return [expand(item) for item in value] if isinstance(value, list) else value


def replay(machine, steps):
    """Apply the commands of ``steps`` and return the steps with what came out."""
    done = []
    for step in steps:
        for _ in range(step.get("times", 1)):
            told = _apply(machine, expand(step["command"]), context(len(done) + 1))
        done.append({key: step[key] for key in ("times", "command") if key in step} | told)
    return done


def _apply(machine, command, at):
    savepoint = machine.savepoint()
    try:
        result = machine.apply(command, at)
    except CommandError as exc:
        machine.rollback(savepoint)
        return {"refused": [exc.code, exc.message]}
    if len(json.dumps(result)) > LONG:
        return {"result": {"$sha256": hashlib.sha256(encode(result)).hexdigest()}}
    return {"result": result}


def state_digest(machine):
    return hashlib.sha256(encode(machine.snapshot())).hexdigest()


def source_of(machine):
    """Return the words and numbers that the machine's modules are made of, without their documentation."""
    words, numbers = set(), set()
    for module in _modules(type(machine)):
        tree = ast.parse(inspect.getsource(module))
        documentation = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and id(node) not in documentation:
                if isinstance(node.value, str):
                    words.add(node.value)
                elif type(node.value) is int:
                    numbers.add(node.value)
    return {"words": sorted(words), "numbers": sorted(numbers)}


def _modules(machine_class):
    """Yield the machine's module, and those of its helpers beside it."""
    module = inspect.getmodule(machine_class)
    seen = {module}
    for value in vars(module).values():
        helper = inspect.getmodule(value) if callable(value) else None
        name = "" if helper is None else helper.__name__
        if name.startswith("node.machines.") and name != "node.machines.base":
            seen.add(helper)
    return sorted(seen, key=lambda one: one.__name__)


def transcript_of(machine_class, steps):
    machine = machine_class()
    done = replay(machine, steps)
    return {
        "signature": machine.signature,
        "source": source_of(machine),
        "steps": done,
        "state": state_digest(machine),
    }


# ---- what to record -----------------------------------------------------------
def commands_of(name):
    """Return the steps that are recorded for the built-in machine ``name``."""
    return {"kv": _kv, "counter": _counter, "noop": _noop}[name]()


_LIMIT = 2 * 1024 * 1024
_STRANGE = [None, True, 7, "put", [], {}, {"op": None}, {"op": "get"}, {"op": "x"}, {"op": "put", "op ": 1}]


def _noop():
    return [{"command": command} for command in [*_STRANGE, {"op": "put", "key": "a", "value": "b"}]]


def _counter():
    numbers = [1, -1, 2**62, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, "1", None, True]
    commands = [{"op": "add", "by": by} for by in numbers for _ in range(2)]
    commands += [{"op": "add"}, {"op": "add", "bye": 1}, {"op": "reset", "by": 1}, {"op": "reset"}]
    return [{"command": command} for command in [*_STRANGE, *commands, {"op": "add", "by": 41}]]


def _kv():
    rng = random.Random(20_240_601)
    keys = [
        "a",
        "b",
        "ab",
        "",
        "é",
        "\x00",
        5,
        None,
        {"$repeat": ["k", _LIMIT]},
        {"$repeat": ["k", _LIMIT + 1]},
    ]
    values = ["", "1", "ü", 7, None, {"$repeat": ["v", _LIMIT]}, {"$repeat": ["v", _LIMIT + 1]}]
    commands = [{"op": "put", "key": key, "value": value} for key, value in itertools.product(keys, values)]
    commands += [{"op": "put", "key_b64": "/w==", "value_b64": text} for text in ("AAA=", "", "!", "AA")]
    for op, flag in itertools.product(("put", "delete"), (True, False, None, 1)):
        commands.append({"op": op, "key": "a", "value": "p", "prev": flag})
        commands.append({"op": op, "key": "a", "prev": flag})
    for expect, value in itertools.product((None, "1", "2", {"$repeat": ["v", 1024 * 1024]}), repeat=2):
        commands.append({"op": "cas", "key": "a", "expect": expect, "value": value})
    commands += [
        {"op": "cas", "key": "a", "value": "1"},
        {"op": "cas", "key": "a", "expect": "1"},
        {"op": "cas", "key": "a", "expect_b64": "MQ==", "value_b64": "Mg==", "prev": True},
        {"op": "cas", "key": "z", "expect": None, "value": None},
        {"op": "put", "key": "a", "key_b64": "YQ==", "value": "1"},
        {"op": "put", "key": "a", "value": "1", "lease": 3},
    ]
    for number in range(300):
        key = f"k{rng.randrange(12)}"
        commands.append(
            rng.choice(
                [
                    {"op": "put", "key": key, "value": str(number)},
                    {"op": "put", "key": key, "value": str(number), "prev": True},
                    {"op": "delete", "key": key, "prev": rng.random() < 0.5},
                    {"op": "cas", "key": key, "expect": None, "value": str(number)},
                    {"op": "cas", "key": key, "expect": str(number - 12), "value": rng.choice([None, "c"])},
                ]
            )
        )
    steps = [{"command": command} for command in [*_STRANGE, *commands]]
    # The living are bounded in bytes; the readable past in bytes, and at last in versions.
    big = {"op": "put", "key": "big", "value": {"$repeat": ["b", 1024 * 1024]}}
    steps.append({"times": 20, "command": big})
    steps += [{"command": {**big, "key": f"big{number}"}} for number in range(256)]
    steps += [{"command": {"op": "delete", "key": f"big{number}"}} for number in range(256)]
    steps.append({"times": 10_050, "command": {"op": "put", "key": "often", "value": "o"}})
    return steps
