"""Rules of the code that no linter knows. Each names the one place where a thing is done, and keeps others out."""

import ast
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PACKAGES = ("attestation", "enclave", "node")


def sources(*, without: tuple[str, ...] = ()) -> Iterator[tuple[str, ast.Module]]:
    """Yield the name and the syntax tree of each module, but those under ``without``."""
    for package in PACKAGES:
        for path in sorted((PROJECT / package).rglob("*.py")):
            name = path.relative_to(PROJECT).as_posix()
            if not name.startswith(without):
                yield name, ast.parse(path.read_text())


def calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of each call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.lineno, dotted(node.func)


def dotted(node: ast.AST) -> str:
    match node:
        case ast.Name(name):
            return name
        case ast.Attribute(value, name):
            return f"{dotted(value)}.{name}"
        case ast.Call(function):
            return f"{dotted(function)}()"
        case _:
            return "?"


def task_groups(tree: ast.AST) -> set[str]:
    """Return the names that stand for an ``asyncio.TaskGroup``: it waits for its tasks, and raises."""
    names = {
        item.optional_vars.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if dotted(item.context_expr) == "asyncio.TaskGroup()" and isinstance(item.optional_vars, ast.Name)
    }
    return names | {
        node.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.arg) and node.annotation and dotted(node.annotation) == "asyncio.TaskGroup"
    }


def test_background_work_is_started_in_one_place_that_reports_how_it_ends():
    found = [
        f"{name}:{line}: {call}"
        for name, tree in sources(without=("attestation/background.py",))
        for groups in [task_groups(tree)]
        for line, call in calls(tree)
        if call.rsplit(".")[-1] in {"create_task", "ensure_future"} and call.split(".")[0] not in groups
    ]
    assert found == [], "use attestation.background.Background: a bare task ends without a word"
