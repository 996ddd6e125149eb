"""docs/where.md, CONTRIBUTING.md and the DESIGN pages name only what is there: each path, and each name."""

import ast
import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WHERE = (ROOT / "docs" / "where.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
FOLDERS = "attestation|enclave|node|tdx-images|tests|docs|bench"
PATH = re.compile(rf"`((?:{FOLDERS})/[\w./-]*)(?:::\w+)?`")
ROWS = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", WHERE, re.MULTILINE)
TASKS = [row for row in ROWS if row[0] not in {"you want to", "---"}]


def names_of(path: Path) -> set[str]:
    """Return the names that a module defines at its top: classes, functions, constants and types."""
    found: set[str] = set()
    for statement in ast.parse(path.read_text()).body:
        match statement:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                found.add(statement.name)
            case ast.Assign():
                found |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case _:
                pass
    return found


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task[0])
def test_every_name_of_a_task_is_defined_in_the_files_beside_it(task):
    _, files, names = task
    paths = [ROOT / name for name in re.findall(r"`([^`]+)`", files)]
    defined = set().union(*(names_of(path) for path in paths if path.suffix == ".py"))
    wanted = re.findall(r"`([^`]+)`", names)

    assert wanted
    assert [str(path.relative_to(ROOT)) for path in paths if not path.exists()] == []
    assert set(wanted) <= defined


def test_there_are_at_least_twenty_tasks():
    assert len(TASKS) >= 20


@pytest.mark.parametrize("page", ["docs/where.md", "CONTRIBUTING.md"])
def test_every_path_that_a_page_for_contributors_names_exists(page):
    named = PATH.findall((ROOT / page).read_text())

    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:attestation|enclave|node)(?:\.\w+)+)`", CONTRIBUTING)))
)
def test_every_dotted_name_of_contributing_can_be_imported(name):
    assert pkgutil.resolve_name(name) is not None


def test_every_test_that_contributing_names_exists():
    missing = [
        f"{path}::{name}"
        for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", CONTRIBUTING)
        if f"def {name}(" not in (ROOT / path).read_text()
    ]

    assert missing == []


def test_every_link_from_a_task_to_a_recipe_has_its_heading():
    headings = {
        re.sub(r"[^a-z0-9-]", "", heading.lower().replace(" ", "-"))
        for heading in re.findall(r"^#+ (.+)$", CONTRIBUTING, re.MULTILINE)
    }

    assert set(re.findall(r"CONTRIBUTING\.md#([\w-]+)", WHERE)) <= headings


@pytest.mark.parametrize(
    "page",
    sorted(
        page for folder in ("attestation", "enclave", "node") for page in (ROOT / folder).rglob("DESIGN.md")
    ),
    ids=lambda page: page.parent.name,
)
def test_every_module_in_the_table_of_a_design_page_is_beside_it(page):
    heading = re.search(r"^\| (?:module|where|package|file) \|", page.read_text(), re.MULTILINE)
    assert heading is not None
    table = page.read_text()[heading.end() :].partition("\n\n")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]

    assert named
    there = [name for name in named for end in ("", ".py") if (page.parent / f"{name}{end}").exists()]
    assert sorted(set(named) - set(there)) == []
