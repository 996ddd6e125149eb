"""What a machine did with some commands when its signature was last changed, as a file.

Members of one group may run different releases, and what they apply must come out equal. A machine's signature stands for that; the file holds what it stands for: commands, results or refusals, and the digest of the state at the
end. Its ``words`` and ``numbers`` are those of the machine's source: an operation, a member of a command, a
refusal or a limit that is new shows there, although no recorded command knows of it.
"""

import ast
import hashlib
import inspect
import itertools
import json
import random
import textwrap

from attestation.encoding.canonical import encode
from node.machines.base import ApplyContext, CommandError

LONG = 400  # characters of JSON; of a longer result the digest is recorded


def context(index, sub=0, version=1):
    """Return where the ``index``-th entry was: always the same."""
    time_ms = 1_700_000_000_000 + index
    return ApplyContext(term=1, index=index, sub=sub, time_ms=time_ms, group_id=bytes(32), version=version)


def expand(value):
    """Return a command as it is applied: ``{"$repeat": [text, count]}`` stands for long text."""
    if isinstance(value, dict):
        if set(value) == {"$repeat"}:
            text, count = value["$repeat"]
            return text * count
        return {key: expand(item) for key, item in value.items()}
    return [expand(item) for item in value] if isinstance(value, list) else value


def replay(machine, steps, version=None):
    """Apply the commands of ``steps`` and return the steps with what came out."""
    done = []
    for step in steps:
        for _ in range(step.get("times", 1)):
            told = _apply(
                machine,
                expand(step["command"]),
                context(len(done) + 1, version=version or machine.versions[-1]),
            )
        done.append({key: step[key] for key in ("times", "command") if key in step} | told)
    return done


def _apply(machine, command, at):
    savepoint = machine.savepoint()
    try:
        result = machine.apply(command, at)
    except CommandError as exc:
        machine.rollback(savepoint)
        return {"refused": [exc.code, exc.message]}
    result = shown(result)
    if len(json.dumps(result)) > LONG:
        return {"result": {"$sha256": hashlib.sha256(encode(result)).hexdigest()}}
    return {"result": result}


def shown(value):
    """Return a result as JSON can hold it: bytes as they are written in Python."""
    if isinstance(value, bytes):
        return {"$bytes": repr(value)}
    return [shown(item) for item in value] if isinstance(value, list) else value


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


def operations_of(method):
    """Return the operations that the ``match`` of a method knows."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    return {
        pattern.value.value
        for case in ast.walk(tree)
        if isinstance(case, ast.match_case)
        for pattern in ast.walk(case.pattern)
        if isinstance(pattern, ast.MatchValue)
    }


def _modules(machine_class):
    """Yield the machine's module, and those of its helpers, and of theirs."""
    todo = [inspect.getmodule(machine_class)]
    seen = set()
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        for value in vars(module).values():
            helper = inspect.getmodule(value) if callable(value) else None
            name = "" if helper is None else helper.__name__
            if name.startswith("node.machines.") and name != "node.machines.base":
                todo.append(helper)
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
    return {"kv": _kv, "collections": _collections, "counter": _counter, "noop": _noop}[name]()


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
    steps += [{"command": command} for command in _kv_lists()]
    return steps


def _kv_lists():
    """Every command that is a list, with refusals; bytes as base64."""
    a, b, c, everything, value = "YQ==", "Yg==", "Yw==", "AA==", "dmFsdWU="
    read = ["range", a, everything, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    puts = [["put", key, value, lease, flags] for key in (a, "", 5) for lease in (0, 9) for flags in range(9)]
    compares = [
        [target, result, key, end, value if target == 3 else 3]
        for target in range(6)
        for result in range(5)
        for key, end in ((a, ""), ("eA==", ""), (a, everything))
    ]
    return [
        *puts,
        ["lease-grant", 9, 60],
        ["lease-grant", 9, 60],
        ["lease-grant", 0, -5],
        ["lease-grant", 0, 9_000_000_001],
        *puts,
        *(
            ["delete", key, end, flags]
            for key in (a, b)
            for end in ("", a, everything)
            for flags in (0, 1, 2)
        ),
        ["put", b, value, 9, 0],
        ["put", c, value, 9, 0],
        *(["txn", [compare], [read], []] for compare in compares),
        ["txn", [], [["put", a, value, 0, 1], read, ["delete", b, "", 1]], []],
        ["txn", [], [["put", a, value, 0, 1], ["delete", a, "", 1]], []],
        ["txn", [], [["txn", [compares[0]], [["put", a, value, 0, 0]], [["put", b, value, 0, 0]]], read], []],
        ["txn", [], [[]], []],
        ["txn", [], [["put", a, value, 0, 0], ["put", b, value, 77, 0]], []],
        ["txn", [], [read] * 129, []],
        ["txn", [compares[0]] * 129, [], []],
        ["put", a, value, 9, 0],
        ["lease-tick", 1, 1000, 500, []],
        ["lease-tick", 2, 1000, 500, []],
        ["lease-tick", 1, 2000, 1500, [9, 10]],
        ["lease-tick", 1, 3000, 2500, []],
        ["lease-tick", 1, 62_499, 62_000, []],
        ["lease-tick", 1, 62_500, 62_500, []],
        ["lease-revoke", 9],
        ["lease-grant", 8, 2],
        ["lease-renew", [8, 9]],
        ["lease-renew", 8],
        ["lease-tick", 1, 70_000, 62_500, [8, 77]],
        ["put", c, value, 8, 0],
        ["lease-revoke", 8],
        ["put", b, value, 0, 0],
        *(["compact", revision] for revision in (0, 10_700, 10_700, 10_699, 2**62, None)),
        ["txn", [], [["range", a, "", 0, 10_699, 0, 0, 0, 0, 0, 0, 0]], []],
        ["frob"],
    ]


def _collections():
    """Every operation on every kind, members that no operation takes, and the limits."""
    rng = random.Random(20_261_130)
    kinds = ["map", "vec", "set", "cell", "once", "queue"]
    commands = [{"op": "map-insert", "name": "map", "key": "a", "value": "1"}]  # not declared yet
    commands += [{"op": "declare", "name": kind, "kind": kind} for kind in [*kinds, "list", None]]
    commands += [
        {"op": "declare", "name": name, "kind": kind, "capacity": capacity}
        for name, kind in (("small", "queue"), ("map", "map"), ("map", "queue"), ("queue", "queue"))
        for capacity in (2, 0, 1_000_000, 1_000_001, "2")
    ]
    commands += [
        {"op": "declare", "name": name, "kind": "map"}
        for name in ("", "é" * 64, "é" * 65, None, {"$repeat": ["n", 128]}, {"$repeat": ["n", 129]})
    ]
    key = ["", "a", "b", "ü", 5, {"$repeat": ["k", 64 * 1024]}, {"$repeat": ["k", 64 * 1024 + 1]}]
    value = ["", "1", "2", None, {"$repeat": ["v", _LIMIT]}, {"$repeat": ["v", _LIMIT + 1]}]
    keys = [[], ["a"], ["a", "b", "a"], ["b", "c"], "a", [None], [{"$repeat": ["k", 64 * 1024 + 1]}]]
    values = [[], ["1"], ["1", "2", "3"], ["1", "2"], {}, [7], [{"$repeat": ["v", _LIMIT + 1]}]]
    number = [0, 1, 2, 5, -1, 2**53 - 1, 2**53, True]
    priority = [0, 1, -1, 2**53 - 1, -(2**53) + 1, 2**53, -(2**53), "1"]
    priorities = [[], [1], [3, 1, 2], [2, 2], [2**53 - 1, -(2**53) + 1], [True], 7]
    members = {
        "map-insert": {"key": key, "value": value},
        "map-extend": {"keys": keys, "values": values},
        "map-cas": {"key": key[:4], "expect": value[:4], "value": value[:4]},
        "map-pop": {"key": key},
        "map-remove": {"keys": keys},
        "set-add": {"values": keys},
        "set-remove": {"values": keys},
        "cell-write": {"value": value},
        "cell-cas": {"expect": value[:4], "value": value[:4]},
        "once-write": {"value": value},
        "vec-push": {"values": values, "front": [True, False, 1]},
        "vec-pop": {"front": [True, False, 1]},
        "vec-insert": {"index": number, "value": value[:3]},
        "vec-set": {"index": number, "value": value[:3]},
        "vec-remove": {"index": number},
        "vec-swap": {"index": number, "other": number},
        "vec-truncate": {"length": [9, 7, *number]},
        "queue-push": {"keys": keys, "priorities": priorities, "values": values},
        "queue-pop": {"last": [True, False, 1]},
        "queue-reprioritize": {"key": key[:4], "priority": priority},
        "queue-replace": {"key": key[:4], "value": value},
        "queue-cas": {"key": key[:4], "expect": value[:4], "value": value[:4]},
        "queue-remove": {"keys": keys},
        "queue-remove-range": {"low": priority, "high": priority},
        "clear": {},
    }
    for name in [*kinds, "small", "nothing"]:
        for op, possible in members.items():
            drawn = list(itertools.product(*possible.values()))
            of_its_kind = op.partition("-")[0] == ("queue" if name == "small" else name) or op == "clear"
            for chosen in rng.sample(drawn, min(len(drawn), 24 if of_its_kind else 1)):
                commands.append({"op": op, "name": name, **dict(zip(possible, chosen, strict=True))})
    many = [str(number) for number in range(200)]
    commands += [
        {"op": "map-insert", "name": "map", "key_b64": "/w==", "value_b64": "AAA="},
        {"op": "map-insert", "name": "map", "key": "a", "key_b64": "YQ==", "value": "1"},
        {"op": "set-add", "name": "set", "values_b64": ["/w==", "YQ=="]},
        {"op": "set-add", "name": "set", "values_b64": ["/w"]},
        {"op": "set-add", "name": "set", "values": ["a"], "values_b64": []},
        {"op": "set-add", "name": "set"},
        {"op": "set-add", "name": "set", "values": many * 51},
        {"op": "set-add", "name": "set", "values": many * 50},
        {"op": "queue-push", "name": "queue", "keys": many, "priorities": [7] * 200, "values": many},
        {"op": "queue-push", "name": "small", "keys": many, "priorities": [7] * 200, "values": many},
        {"op": "clear", "name": "map", "all": True},
        {"op": "drop", "name": "once"},
        {"op": "drop", "name": "once"},
        {"op": "declare", "name": "once", "kind": "once"},
    ]
    for _ in range(300):
        op = rng.choice(
            ["map-insert", "map-cas", "vec-push", "vec-insert", "vec-pop", "queue-push", "queue-pop"]
        )
        drawn = {name: rng.choice(possible[:4]) for name, possible in members[op].items()}
        commands.append({"op": op, "name": op.partition("-")[0], **drawn})
    steps = [{"command": command} for command in [*_STRANGE, *commands]]
    big = {"op": "vec-push", "name": "vec", "values": [{"$repeat": ["b", _LIMIT - 64]}]}
    steps.append({"times": 130, "command": big})  # the store is full
    steps += [{"command": {"op": "declare", "name": f"c{number}", "kind": "cell"}} for number in range(1030)]
    steps.append({"command": {"op": "clear", "name": "vec"}})
    return steps
