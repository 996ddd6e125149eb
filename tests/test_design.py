"""docs/design is complete: what the source names is there, and what is named there exists.

The rules' numbers (``3.5``, ``I4``, ``R-serve``, ``C16``, ``U8``, ``A6.3``, ``Scenario 16``) are headings of those
pages. Each rule has a place in the code and tests, and each of these is a name that can be found.
"""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DESIGN = ROOT / "docs" / "design"
PAGES = sorted(DESIGN.glob("*.md"))
SCENARIOS = ROOT / "tests" / "node" / "simulation" / "scenarios"
PACKAGES = ("attestation", "enclave", "node")
SOURCE = (*PACKAGES, "tdx-images", "tests")

ANCHOR = re.compile(r"#{2,4} (3\.\d+|[CIRU]\d+|R-serve|A\d+(?:\.\d+)?) ")
# Numbers of sections of other documents, and of versions: "RFC 8949 3.1, 4.2.1", "Python 3.11", "OpenAPI 3.1".
FOREIGN = re.compile(
    r"(?:RFC \d+|\bthesis)(?:[ ,]+(?:and |to )?[\d.]+(?: \([^)]*\))?)*"
    r"|\b(?:Python|OpenAPI|Linux|Raft|UEFI|TLS) [\d.]+"
)
RULE = re.compile(r"\b([CIRU]\d{1,2})\b|\b(R-serve)\b")
SECTION = re.compile(r"(?<![\d.])(3\.\d{1,2})(?![\d.]*\d)(?! ?(?:s|ms|%|kB)\b)")
ATTESTATION = re.compile(r"\b(A\d{1,2}(?:\.\d+)?)\b")
SCENARIO = re.compile(r"\b[Ss]cenario (\d+[a-z]?)\b|\bD(\d\d[a-z]?)\b")
SEED = re.compile(r"\bseed (\d+)\b")
DOCUMENT = re.compile(r"[\w./-]*\w\.md\b")
# Scenarios that are known by the number that the suite gave them before they had a file.
NUMBERED = {"26e": "63", "26f": "64"}
WITH_THE_VECTORS = {"tampering.md"}  # beside the shared vectors, which are no part of this repository
NOT_A_RULE = {"3.0", "3.13"}


@cache
def headings() -> dict[str, str]:
    """Return what stands below each numbered heading, up to the next one that is not below it."""
    found: dict[str, str] = {}
    for page in PAGES:
        lines = page.read_text().splitlines()
        for start, line in enumerate(lines):
            match = ANCHOR.match(line + " ")
            if match is None:
                continue
            level = len(line) - len(line.lstrip("#"))
            end = next(
                (at for at in range(start + 1, len(lines)) if re.match(rf"#{{1,{level}}} ", lines[at])), None
            )
            assert match[1] not in found, f"{match[1]} is the heading of two rules"
            found[match[1]] = "\n".join(lines[start + 1 : end])
    return found


@cache
def tracked(*folders: str) -> tuple[Path, ...]:
    listed = subprocess.run(
        ["git", "ls-files", "--", *folders], cwd=ROOT, check=True, capture_output=True, text=True
    )
    found = tuple(path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file())
    assert found, f"nothing in {', '.join(folders)}: have they moved?"
    return found


@cache
def prose_of(path: Path) -> str:
    """Return the text that a file has for people: comments and docstrings of Python, all of another text."""
    text = path.read_text()
    if path.suffix != ".py":
        return text
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(n) for n in ast.walk(ast.parse(text)) if isinstance(n, documented)]
    return "\n".join([*comments, *(one for one in docstrings if one)])


def texts(*folders: str, suffixes: tuple[str, ...] = (".py", ".md", ".txt")) -> Iterator[tuple[str, str]]:
    for path in (path for folder in folders for path in tracked(folder)):
        if path.suffix in suffixes and path != Path(__file__):
            yield str(path.relative_to(ROOT)), FOREIGN.sub("", prose_of(path))


def unresolved(pattern: re.Pattern[str], known: set[str], *folders: str) -> list[str]:
    return [
        f"{where}: {next(group for group in match.groups() if group)}"
        for where, text in texts(*folders)
        for match in pattern.finditer(text)
        if next(group for group in match.groups() if group) not in known
    ]


def scenario_numbers() -> set[str]:
    files = {path.stem.split("-")[0] for path in SCENARIOS.glob("*.txt")}
    return files | {number.removeprefix("0") for number in files} | NUMBERED.keys()


def test_every_rule_that_the_source_names_has_its_heading() -> None:
    assert unresolved(RULE, set(headings()), "node", "tests/node") == []


def test_every_section_that_the_source_names_has_its_heading() -> None:
    consensus = ("node/raft", "node/storage", "node/simulation", "tests/node/raft", "tests/node/simulation")
    assert unresolved(SECTION, set(headings()), *consensus, "node/bonds/DESIGN.md") == []


def test_every_part_of_the_attestation_design_that_the_source_names_has_its_heading() -> None:
    where = ("attestation", "enclave", "tests/attestation", "tests/enclave", "tests/support")
    assert unresolved(ATTESTATION, set(headings()), *where) == []


def test_every_scenario_that_is_named_is_a_file() -> None:
    assert unresolved(SCENARIO, scenario_numbers(), "node", "tests/node", "docs/design") == []


def test_every_scenario_has_its_row_in_the_design() -> None:
    text = (DESIGN / "consensus.md").read_text()
    rows = set(
        re.findall(r"^\| \[\d+[a-z]?\]\(../../tests/node/simulation/scenarios/(.+?)\) \|", text, re.MULTILINE)
    )

    assert rows == {path.name for path in SCENARIOS.glob("*.txt")}


def test_every_seed_that_the_source_gives_as_a_reason_is_in_the_design() -> None:
    known = set(SEED.findall((DESIGN / "consensus.md").read_text()))
    assert unresolved(SEED, known, "node/raft") == []


def test_the_design_names_only_numbers_that_it_has() -> None:
    known = set(headings())
    for pattern in (RULE, SECTION, ATTESTATION):
        assert unresolved(pattern, known, "docs/design") == []


def test_every_document_that_the_source_names_exists() -> None:
    missing = [
        f"{where}: {name}"
        for where, text in texts(*SOURCE)
        for name in DOCUMENT.findall(text)
        if name not in WITH_THE_VECTORS
        and not any((place / name).exists() for place in (ROOT, (ROOT / where).parent, ROOT / "docs"))
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_the_design_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if "://" not in link and not (DESIGN / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_the_design_names_exists(page: Path) -> None:
    paths = re.findall(rf"`((?:{'|'.join((*SOURCE, 'docs'))})/[\w./-]*)`", page.read_text())
    assert [path for path in paths if not (ROOT / path).exists()] == []


# ---- places and tests -------------------------------------------------------


@cache
def defined() -> dict[str, set[str]]:
    """Return the files that define each class, function, method and constant."""
    found: dict[str, set[str]] = {}
    for path in tracked(*PACKAGES, "tests"):
        if path.suffix != ".py":
            continue
        where = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names = [node.name]
            elif isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            for name in names:
                found.setdefault(name, set()).add(where)
    return found


def faults_of_place(text: str) -> list[str]:
    """Return what a ``Place:`` names and the code does not define. "`a`, `b` in `folder`" means there."""
    faults: list[str] = []
    pending: list[str] = []
    for match in re.finditer(r"(in )?`([^`]+)`", text):
        name = match[2]
        if "/" in name or name in SOURCE:
            if not (ROOT / name).exists():
                faults.append(name)
            if match[1]:
                faults += [n for n in pending if not any(f.startswith(name) for f in defined().get(n, ()))]
                pending.clear()
        elif name.endswith(".py"):
            faults += [] if any(path.name == name for path in tracked(*PACKAGES)) else [name]
        else:
            pending.append(name)
    return faults + [name for name in pending if name not in defined()]


def faults_of_tests(text: str) -> list[str]:
    faults = []
    for name in re.findall(r"`([^`]+)`", text):
        if name.endswith(".py") or "/" in name:
            found = any(str(path).endswith(f"/{name}") for path in tracked("tests"))
            faults += [] if found or (ROOT / name).exists() else [name]
        elif not any(where.startswith("tests/") for where in defined().get(name, ())):
            faults.append(name)
    return faults


def lines_beginning(label: str) -> list[str]:
    return [line for page in PAGES for line in page.read_text().splitlines() if line.startswith(f"{label}: ")]


def test_every_place_that_the_design_names_is_in_the_code() -> None:
    assert {line: faults for line in lines_beginning("Place") if (faults := faults_of_place(line))} == {}


def test_every_test_that_the_design_names_is_one() -> None:
    assert {line: faults for line in lines_beginning("Tests") if (faults := faults_of_tests(line))} == {}


@pytest.mark.parametrize("rule", sorted(headings().keys() - NOT_A_RULE))
def test_every_rule_names_its_place_and_its_tests(rule: str) -> None:
    text = headings()[rule]
    cause = "Prevented by: " if rule.startswith("C") else "Place: "

    assert re.search(rf"^{cause}", text, re.MULTILINE), f"{rule} names no place"
    assert re.search(r"^Tests: ", text, re.MULTILINE), f"{rule} names no tests"


def test_a_name_that_the_code_does_not_define_is_noticed() -> None:
    assert faults_of_place("Place: `is_quorum`, `is_no_rule` in `node/raft`.") == ["is_no_rule"]
    assert faults_of_place("Place: `is_quorum` in `node/bonds`.") == ["is_quorum"]
    assert faults_of_place("Place: `node/nowhere`.") == ["node/nowhere"]
    assert faults_of_tests("Tests: `test_that_does_not_exist`, `is_quorum`.") == [
        "test_that_does_not_exist",
        "is_quorum",
    ]


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (RULE, "I4, and R-serve (C16)", ["I4", "R-serve", "C16"]),
        (
            SECTION,
            "Elections (3.4; thesis 3.5, 3.6.2 (no-op) and 3.10): see 3.13. It took 3.5 s on Python 3.11, by RFC 8949 3.1, 4.2.1",
            ["3.4", "3.13"],
        ),
        (ATTESTATION, "RFC 5280 5 and 6.3; A6.3 and A6.4", ["A6.3", "A6.4"]),
        (SCENARIO, "Scenario 26e, D03", ["26e", "03"]),
    ],
)
def test_references_to_this_design_are_distinguished_from_others(
    pattern: re.Pattern[str], text: str, found: list[str]
) -> None:
    matches = pattern.finditer(FOREIGN.sub("", text))
    assert [next(group for group in match.groups() if group) for match in matches] == found
