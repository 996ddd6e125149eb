"""The table of commands is whole: each command starts, and each is documented."""

import ast
import importlib
from pathlib import Path

import pytest
import typer.main

from node.cli import main
from tests.support.cluster import PROJECT

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_of_the_table_starts(name):
    command = typer.main.get_command(main.build_app(name))

    assert set(command.commands) == {name}


def test_every_module_with_a_command_is_in_the_table():
    listed = {module for module, _ in main.COMMANDS.values()}
    defining = {
        f"node.cli.{path.stem}"
        for path in Path(main.__file__).parent.glob("*.py")
        for statement in ast.parse(path.read_text()).body
        if (isinstance(statement, ast.FunctionDef) and statement.name == "command")
        or (isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "app")
    }

    assert defining == listed


def test_a_single_command_is_a_function_and_a_group_of_commands_an_app():
    for name, (module_name, _) in main.COMMANDS.items():
        module = importlib.import_module(module_name)
        assert hasattr(module, "command" if name in main.SINGLE else "app"), name


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_is_on_a_page(name):
    assert any(f"bondstone {name}" in page.read_text() for page in PAGES)
