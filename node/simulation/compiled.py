"""The simulator compiled: a copy of the very same source, made by mypyc, that runs more schedules.

The copy is a tool for looking further, not what is shipped, and nobody takes its word: ``prove`` runs
schedules both ways and compares their whole traces, and what goes wrong in it the interpreter runs again.
mypyc and a C compiler are asked of whoever builds one, of nobody else.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from node.raft import member
from node.simulation.campaign import outcomes

CACHE: Final = Path(".bondstone/compiled")
_ROOT: Final = Path(__file__).parents[2]
# All that a campaign imports, below the root.
_SOURCES: Final = (
    "attestation/__init__.py",
    "attestation/canonical.py",
    "attestation/errors.py",
    "node/__init__.py",
    "node/errors.py",
    "node/machines/__init__.py",
    "node/machines/base.py",
    "node/raft/*.py",
    "node/simulation/*.py",
)
# Of these not: what only defines ``msgspec.Struct``, which are C already, and what no campaign runs.
_INTERPRETED: Final = frozenset(
    {
        "node/machines/base.py",
        "node/raft/events.py",
        "node/raft/messages.py",
        "node/raft/types.py",
        "node/simulation/__main__.py",
        "node/simulation/compiled.py",
        "node/simulation/scenario.py",
        "node/simulation/scenario_file.py",
    }
)
_OPTIMISATION: Final = "2"
_LOG_LINES: Final = 15
_PROOF_SEEDS: Final = 40


class CompileError(Exception):
    """There is no compiled copy. The text is for people and ends with a hint."""


class DivergenceError(Exception):
    """The compiled copy does not do what the source says."""


def is_compiled() -> bool:
    """Return whether this very process runs a compiled copy."""
    return not str(member.__file__).endswith(".py")


def build(cache: Path, *, tell: Callable[[str], None]) -> Path:
    """Return the directory of the compiled copy of this source; make it unless ``cache`` has it.

    Raises:
        CompileError: it cannot be made here.
    """
    sources = _sources()
    versions = _versions()
    copy = cache.absolute() / _digest(sources, versions)
    if copy.exists():
        return copy
    tell(f"compiling the simulator with mypyc {versions[0]}: a minute or two, once for this source")
    cache.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(dir=cache.absolute(), prefix="making-"))
    try:
        _compile(making, sources)
        making.rename(copy)
    except OSError:
        if not copy.exists():  # else another process was faster, with the same
            raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return copy


def _sources() -> list[str]:
    return sorted(path.relative_to(_ROOT).as_posix() for pattern in _SOURCES for path in _ROOT.glob(pattern))


def _versions() -> tuple[str, ...]:
    """Return what decides, beside the source, what comes out: first mypyc's version."""
    try:
        mypyc, setuptools = metadata.version("mypy"), metadata.version("setuptools")
    except metadata.PackageNotFoundError as exc:
        raise CompileError(f"{exc.name} is not installed. hint: pip install mypy setuptools") from exc
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        raise CompileError(f"there is no C compiler ({compiler}). hint: apt-get install gcc libc6-dev")
    return mypyc, setuptools, sys.version, sysconfig.get_platform(), _OPTIMISATION


def _digest(sources: list[str], versions: tuple[str, ...]) -> str:
    whole = hashlib.sha256("\n".join(versions).encode())
    for source in sources:
        content = (_ROOT / source).read_bytes()
        whole.update(f"\n{source} {len(content)}\n".encode() + content)
    return whole.hexdigest()[:16]


def _compile(copy: Path, sources: list[str]) -> None:
    for source in sources:
        (copy / source).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_ROOT / source, copy / source)
    chosen = [s for s in sources if s not in _INTERPRETED and not s.endswith("__init__.py")]
    done = subprocess.run(  # noqa: S603 - our own interpreter, our own files
        [sys.executable, "-m", "mypyc", *chosen],
        cwd=copy,
        env=os.environ | {"MYPYC_OPT_LEVEL": _OPTIMISATION},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        end = "\n".join(done.stdout.splitlines()[-_LOG_LINES:])
        raise CompileError(f"mypyc failed:\n{end}\nhint: pip install the versions of requirements-dev.lock")
    shutil.rmtree(copy / "build")


def prove(copy: Path, *, first: int, events: int) -> int:
    """Run some seeds from ``first`` on both ways, with their traces; return how many.

    Raises:
        DivergenceError: one does not come out the same.
    """
    seeds = ("--first", str(first), "--digests", str(_PROOF_SEEDS), "--events", str(events))
    child = start(copy, "node.simulation", *seeds)
    interpreted = outcomes(first, _PROOF_SEEDS, events=events)
    compare(interpreted, read(child)["outcomes"])
    return _PROOF_SEEDS


def compare(interpreted: dict[str, str], compiled: dict[str, str]) -> None:
    """Compare what came out of each seed.

    Raises:
        DivergenceError: not the same, for the first seed that it names.
    """
    for seed, outcome in interpreted.items():
        other = compiled.get(seed, "nothing")
        if other != outcome:
            raise DivergenceError(f"seed {seed}: {outcome} when interpreted, {other} when compiled")


def start(copy: Path, module: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start ``python -m module`` with the compiled copy before everything else; ``read`` what it says."""
    path = [str(copy), str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(  # noqa: S603 - our own interpreter, our own module
        [sys.executable, "-P", "-m", module, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        stdout=subprocess.PIPE,
        text=True,
    )


def read(child: "subprocess.Popen[str]") -> dict[str, Any]:
    """Return the JSON object that ``child`` prints. Ctrl-C reaches it as well: it ends with what it has.

    Raises:
        DivergenceError: it prints none, or ran something else than the compiled copy.
    """
    while True:
        try:
            text = child.communicate()[0]
            break
        except KeyboardInterrupt:
            continue
    try:
        value: dict[str, Any] = json.loads(text)
    except ValueError as exc:
        raise DivergenceError(f"the compiled copy ended with exit code {child.returncode}") from exc
    if not value["compiled"]:
        raise DivergenceError("what ran was not the compiled copy")
    return value
