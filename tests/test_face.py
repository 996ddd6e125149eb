"""What the packages offer: names that stay while the modules behind them move."""

import ast
import asyncio
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from enclave import Identity
from enclave.mock import MockAuthority

ROOT = Path(__file__).resolve().parents[1]
FACES = ["attestation", "enclave", "node"]
# Packages whose __init__ is an interface too.
PUBLIC = {*FACES, "enclave.mock", "node.client", "node.collections", "node.simulation", "node.sync"}
POLICY = b"""
version = 1
[tcb]
accepted_statuses = ["UpToDate"]
[ticket]
max_age_seconds = 3600
max_lifetime_seconds = 3600
[reference_values]
accept_any_td = true
not_checked = [
  "mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrconfigid", "mrowner", "mrownerconfig",
]
"""


@pytest.mark.parametrize("name", FACES)
def test_every_name_of_the_interface_is_there_and_typed(name: str) -> None:
    package = importlib.import_module(name)
    tree = ast.parse((ROOT / name / "__init__.py").read_text())
    typed = {
        alias.name
        for block in tree.body
        if isinstance(block, ast.If)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }

    assert set(package.__all__) == set(package._PLACES) == typed
    assert set(package.__all__) <= set(dir(package))
    for item in package.__all__:
        assert getattr(package, item) is getattr(importlib.import_module(package._PLACES[item]), item)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize("name", FACES)
def test_every_package_is_marked_as_typed(name: str) -> None:
    assert (ROOT / name / "py.typed").exists()


def test_importing_a_package_loads_none_of_its_modules() -> None:
    """The command line loads what one command needs, and no more."""
    program = "import sys, attestation, enclave, node; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    ours = {item for item in run.stdout.split() if item.partition(".")[0] in FACES}

    assert ours == set(FACES)


def test_the_pages_import_from_the_interface_alone() -> None:
    pattern = re.compile(r"^(?:from|import) ((?:attestation|enclave|node)[\w.]*)", re.MULTILINE)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        found = set(pattern.findall(page.read_text()))
        assert found <= PUBLIC, f"{page.name}: {sorted(found - PUBLIC)}"


# ---- the examples in the docstrings -----------------------------------------------------
def example(name: str) -> str:
    text = inspect.getdoc(importlib.import_module(name)) or ""
    return "\n\n".join(re.findall(r"(?:^    .*\n?|^\n(?=    ))+", text, re.MULTILINE))


def run_example(name: str, **variables: Any) -> Any:
    code = textwrap.dedent(example(name))
    assert "import" in code, f"{name} shows no example"
    source = "async def example():\n" + textwrap.indent(code, "    ") + "\n    return locals()\n"
    scope = dict(variables)
    exec(compile(source, name, "exec"), scope)
    return asyncio.run(scope["example"]())


def test_the_example_of_the_attester_works() -> None:
    assert len(run_example("enclave")["quote"]) > 1000


def test_the_example_of_the_verifier_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    authority = MockAuthority.create(now)
    monkeypatch.setattr("attestation.INTEL_SGX_ROOT", authority.trust_root)
    result = run_example(
        "attestation",
        now=now,
        quote=authority.create_td(mrtd=bytes(48)).quote(bytes(64)),
        collateral=authority.endorsements(now).to_json(),
        policy=POLICY,
    )["result"]

    assert result.verified.endorsements
    assert capsys.readouterr().out == "UpToDate\n"


def test_the_example_of_the_node_works() -> None:
    identity = Identity.generate("node-a", datetime.now(UTC))
    executed = run_example("node", identity=identity, utc_now=lambda: datetime.now(UTC))["executed"]

    assert executed.result == {"value": 2}
