"""Ceilings for the shape of the code, at the maximum of today. Lower one when the worst has become better."""

import ast
import tomllib
from fnmatch import fnmatch
from pathlib import Path

from vulture import Vulture

PROJECT = Path(__file__).parents[1]
SHIPPED = ("attestation", "enclave", "node", "tdx-images", "bench")
FUNCTION_LINES_MAX = 66
FILE_LINES_MAX = 593
TEST_FILE_LINES_MAX = 1000


def sources(*folders: str) -> dict[str, str]:
    return {
        path.relative_to(PROJECT).as_posix(): path.read_text()
        for folder in folders
        for path in sorted((PROJECT / folder).rglob("*.py"))
        if "tdx-images/cache" not in path.as_posix()
    }


def test_no_function_is_longer_than_a_page() -> None:
    found = [
        f"{name}:{node.lineno}: {node.name} has {lines} lines"
        for name, text in sources(*SHIPPED).items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert found == [], f"at most {FUNCTION_LINES_MAX} lines: give its steps names"


def test_no_file_is_longer_than_the_longest_of_today() -> None:
    lengths = {name: text.count("\n") for name, text in sources(*SHIPPED, "tests").items()}
    longer = {
        name: lines
        for name, lines in lengths.items()
        if lines > (TEST_FILE_LINES_MAX if name.startswith("tests/") else FILE_LINES_MAX)
    }
    assert longer == {}, "split it by what it has parts of"


def test_every_name_on_the_whitelist_of_dead_code_is_needed_there() -> None:
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["vulture"]
    search = Vulture(ignore_decorators=settings["ignore_decorators"])
    search.scavenge([str(PROJECT / path) for path in settings["paths"]])
    unused = {str(item.name) for item in search.get_unused_code(min_confidence=settings["min_confidence"])}
    idle = [name for name in settings["ignore_names"] if not any(fnmatch(each, name) for each in unused)]
    assert idle == [], "take them out of [tool.vulture]: they are used, or not there"
