"""The simulator compiled: a copy of the same source, made by mypyc, that runs more schedules.

The copy is a tool for longer searches and is not shipped. Its results are checked: ``prove`` runs schedules
both ways and compares their whole traces, and the interpreter repeats a run that failed in the copy. Only a
user that builds a copy needs mypyc and a C compiler. With GCC the copy is compiled twice: first so that it
counts its branches in some seconds of simulation, then by those counts, which is worth a seventh.
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
    "attestation/encoding/__init__.py",
    "attestation/encoding/canonical.py",
    "attestation/encoding/fields.py",
    "attestation/errors.py",
    "node/__init__.py",
    "node/errors.py",
    "node/features.py",
    "node/machines/__init__.py",
    "node/machines/base.py",
    "node/machines/keys.py",
    "node/machines/system.py",
    "node/peers.py",
    "node/raft/*.py",
    "node/simulation/*.py",
    "node/sync/*.py",
    "node/system/__init__.py",
    "node/system/access.py",
    "node/system/access_list.py",
    "node/system/forms.py",
    "node/system/grants.py",
    "node/system/passwords.py",
)
# Modules that are not compiled: those that only define ``msgspec.Struct``, which is C already, those that no
# campaign runs, and the access list with its base classes: an interpreted class cannot inherit from a
# compiled one.
_INTERPRETED: Final = frozenset(
    {
        "node/features.py",
        "node/machines/base.py",
        "node/machines/system.py",
        "node/peers.py",
        "node/raft/events.py",
        "node/raft/messages.py",
        "node/raft/types.py",
        "node/simulation/__main__.py",
        "node/simulation/compiled.py",
        "node/simulation/scenario.py",
        "node/simulation/scenario_file.py",
        "node/sync/evidence.py",
        "node/system/access.py",
        "node/system/access_list.py",
        "node/system/forms.py",
        "node/system/grants.py",
        "node/system/passwords.py",
    }
)
_OPTIMISATION: Final = "3"
_DIRECT: Final = "-fno-plt -fno-semantic-interposition"  # calls into the interpreter and within the copy
_COUNTING: Final = f"{_DIRECT} -fprofile-generate"
_COUNTED: Final = f"{_DIRECT} -fprofile-use -fprofile-partial-training -Wno-missing-profile"
_TRAINING: Final = ("--seconds", "4", "--jobs", "1", "--first", "0", "--json", "--no-replay")
_LOG_LINES: Final = 15
_PROOF_SEEDS: Final = 40


class CompileError(Exception):
    """No compiled copy can be made. The text is for people and ends with a hint."""


class DivergenceError(Exception):
    """The compiled copy behaves differently from the source."""


def is_compiled() -> bool:
    """Return whether this process runs a compiled copy."""
    return not str(member.__file__).endswith(".py")


def build(cache: Path, *, tell: Callable[[str], None]) -> Path:
    """Return the directory of the compiled copy of this source; make it unless ``cache`` has it.

    Raises:
        CompileError: the copy cannot be made here.
    """
    sources = _sources()
    versions = _versions()
    copy = cache.absolute() / _digest(sources, versions)
    if copy.exists():
        return copy
    tell(f"compiling the simulator with mypyc {versions[0]}: two or three minutes, once for this source")
    cache.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(dir=cache.absolute(), prefix="making-"))
    try:
        _compile(making, sources, counts_branches="Free Software Foundation" in versions[-1])
        making.rename(copy)
    except OSError:
        if not copy.exists():  # otherwise another process made the same first
            raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return copy


def _sources() -> list[str]:
    return sorted(path.relative_to(_ROOT).as_posix() for pattern in _SOURCES for path in _ROOT.glob(pattern))


def _versions() -> tuple[str, ...]:
    """Return the versions that decide, with the source, what the copy is: first mypyc's version."""
    try:
        mypyc, setuptools = metadata.version("mypy"), metadata.version("setuptools")
    except metadata.PackageNotFoundError as exc:
        raise CompileError(f"{exc.name} is not installed. hint: pip install mypy setuptools") from exc
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        raise CompileError(f"there is no C compiler ({compiler}). hint: apt-get install gcc libc6-dev")
    about = subprocess.run([compiler, "--version"], stdout=subprocess.PIPE, text=True, check=False).stdout  # noqa: S603
    return mypyc, setuptools, sys.version, sysconfig.get_platform(), _OPTIMISATION, about


def _digest(sources: list[str], versions: tuple[str, ...]) -> str:
    whole = hashlib.sha256("\n".join(versions).encode())
    for source in sources:
        content = (_ROOT / source).read_bytes()
        whole.update(f"\n{source} {len(content)}\n".encode() + content)
    return whole.hexdigest()[:16]


def _compile(copy: Path, sources: list[str], *, counts_branches: bool) -> None:
    for source in sources:
        (copy / source).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_ROOT / source, copy / source)
    chosen = [s for s in sources if s not in _INTERPRETED and not s.endswith("__init__.py")]
    if counts_branches:
        _run_mypyc(copy, chosen, _COUNTING)
        read(start(copy, "node.simulation", *_TRAINING))
        for made in [*copy.rglob("*.o"), *copy.rglob("*.so")]:
            made.unlink()  # otherwise they would count as finished
    _run_mypyc(copy, chosen, _COUNTED if counts_branches else "")
    shutil.rmtree(copy / "build")


def _run_mypyc(copy: Path, chosen: list[str], flags: str) -> None:
    flags = f"{os.environ.get('CFLAGS', '')} {flags}"
    done = subprocess.run(  # noqa: S603 - our own interpreter, our own files
        [sys.executable, "-m", "mypyc", *chosen],
        cwd=copy,
        env=os.environ | {"MYPYC_OPT_LEVEL": _OPTIMISATION, "CFLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        end = "\n".join(done.stdout.splitlines()[-_LOG_LINES:])
        raise CompileError(f"mypyc failed:\n{end}\nhint: pip install the versions of requirements-dev.lock")


def prove(copy: Path, *, first: int, events: int) -> int:
    """Run some seeds from ``first`` on both ways, with their traces; return how many.

    Raises:
        DivergenceError: a seed has another result in the copy.
    """
    seeds = ("--first", str(first), "--digests", str(_PROOF_SEEDS), "--events", str(events))
    child = start(copy, "node.simulation", *seeds)
    interpreted = outcomes(first, _PROOF_SEEDS, events=events)
    compare(interpreted, read(child)["outcomes"])
    return _PROOF_SEEDS


def compare(interpreted: dict[str, str], compiled: dict[str, str]) -> None:
    """Compare the results of each seed.

    Raises:
        DivergenceError: they differ. Names the first such seed.
    """
    for seed, outcome in interpreted.items():
        other = compiled.get(seed, "nothing")
        if other != outcome:
            raise DivergenceError(f"seed {seed}: {outcome} when interpreted, {other} when compiled")


def start(copy: Path, module: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start ``python -m module`` with the compiled copy first on its path; ``read`` returns its output."""
    path = [str(copy), str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(  # noqa: S603 - our own interpreter, our own module
        [sys.executable, "-P", "-m", module, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        stdout=subprocess.PIPE,
        text=True,
    )


def read(child: "subprocess.Popen[str]") -> dict[str, Any]:
    """Return the JSON object that ``child`` prints. Ctrl-C also reaches the child, which prints its sums.

    Raises:
        DivergenceError: the child prints no such object, or ran something else than the compiled copy.
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
