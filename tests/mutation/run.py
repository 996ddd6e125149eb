"""Which small wrong changes of the verifier does no test notice? ``python -m tests.mutation [MODULE...]``.

Each mutant runs in a copy of the project, never in the work tree: first with the tests that concern its
module, and if it survives those, with all tests of ``attestation``. What survives both is listed, and
explained in ``docs/notes/mutation.md``. A mutant that takes too long counts as killed.
"""

import argparse
import ctypes
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from multiprocessing import active_children, get_context
from pathlib import Path

import pytest
from cryptography import x509

from tests.mutation.mutants import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("attestation", "enclave", "node", "tests")
COPIED = (*PACKAGES, "docs", "pyproject.toml")
# Loaded before the forks, so that no mutant pays for them again.
PRELOADED = (pytest, x509)
PYTEST_OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-m", "not image and not long")
FIRST_SECONDS = 60
ALL_SECONDS = 300
# linux/prctl.h: a signal for this process when its parent ends, however it ends.
PR_SET_PDEATHSIG = 1
EXIT_SURVIVED = 0
EXITS_KILLED = frozenset({1, 2, 3})

# Where each module is, below ``attestation``, and the tests that notice most, soonest, below its tests.
MODULES = {
    "verifier": ("verifier", ("test_verifier", "test_tcb", "collateral/test_endorsements")),
    "tcb": ("tcb", ("test_tcb", "policy/test_appraise")),
    "appraise": ("policy/appraise", ("policy/test_appraise",)),
    "endorsements": ("collateral/endorsements", ("collateral/test_endorsements", "test_verifier")),
    "signers": ("collateral/signers", ("collateral/test_endorsements", "collateral/test_evaluation_numbers")),
    "evaluation_numbers": ("collateral/evaluation_numbers", ("collateral/test_evaluation_numbers",)),
    "crl": ("x509/crl", ("x509/test_certificates", "collateral/test_endorsements")),
    "certificates": ("x509/certificates", ("x509/test_certificates", "collateral/test_endorsements")),
    "pck": ("x509/pck", ("x509/test_certificates", "test_verifier")),
    "tcb_info": (
        "collateral/tcb_info",
        ("test_tcb", "collateral/test_endorsements", "collateral/test_signed_json"),
    ),
    "tdx": ("tickets/tdx", ("tickets/test_tdx", "tickets/test_attacks")),
}


def source_of(copy: Path, module: str) -> Path:
    """Return the file of a module in a copy."""
    return copy / "attestation" / f"{MODULES[module][0]}.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one mutant: ``killed``, ``timed-out``, ``survived`` or, out of time, ``not-run``.

    Attributes:
        judged_by: ``first`` or ``all``: the tests that ran.
    """

    module: str
    line: int
    before: str
    after: str
    outcome: str
    judged_by: str


def die_with_parent(number: int) -> None:
    """Have the kernel send this signal when the parent ends: a killed run must leave nothing behind."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def run_tests(copy: Path, files: tuple[str, ...], seconds: float) -> str:
    """Run test files of a copy in a process of their own."""
    pid = os.fork()
    if pid == 0:
        _run_in_child(copy, files)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code == EXIT_SURVIVED:
                return "survived"
            if code in EXITS_KILLED or code < 0:
                return "killed"
            raise RuntimeError(f"pytest could not run {files}: exit code {code}")
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "timed-out"


def _run_in_child(copy: Path, files: tuple[str, ...]) -> None:
    code = 4
    try:
        die_with_parent(signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        os.chdir(copy)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        # Nothing of the work tree may stay: the copy's modules are the ones to be judged.
        for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
            del sys.modules[name]
        sys.path[:] = [str(copy), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
        importlib.invalidate_caches()
        code = int(pytest.main([*PYTEST_OPTIONS, *files]))
    finally:
        os._exit(code)


def judge(copy: Path, module: str, mutant: Mutant, *, judged_by: str) -> Verdict:
    """Put the mutant into the copy, run the tests, and put the original back."""
    path = source_of(copy, module)
    original = path.read_text()
    first = tuple(f"tests/attestation/{name}.py" for name in MODULES[module][1])
    try:
        _write(path, mutant.source)
        if judged_by == "first":
            outcome = run_tests(copy, first, FIRST_SECONDS)
        else:
            outcome = run_tests(copy, ("tests/attestation",), ALL_SECONDS)
    finally:
        _write(path, original)
    return _verdict(module, mutant, outcome, judged_by)


def _verdict(module: str, mutant: Mutant, outcome: str, judged_by: str) -> Verdict:
    return Verdict(
        module=module,
        line=mutant.line,
        before=mutant.before,
        after=mutant.after,
        outcome=outcome,
        judged_by=judged_by,
    )


def _write(path: Path, source: str) -> None:
    path.write_text(source)
    # Bytecode is matched by second and size, which two mutants may share.
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def require_sound(copy: Path, module: str) -> None:
    """Prove that the unchanged copy passes, and that the copy is what is tested."""
    source = source_of(copy, module).read_text()
    for change, text, expected in (("unchanged", source, "survived"), ("broken", "raise OSError", "killed")):
        verdict = judge(copy, module, Mutant(line=0, before="", after=change, source=text), judged_by="first")
        if verdict.outcome != expected:
            sys.exit(
                f"{module}.py, {change}: {verdict.outcome}, expected {expected}; nothing can be measured"
            )


def make_copy(source: Path, target: Path) -> Path:
    """Copy what the tests need."""
    target.mkdir()
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source / name, target / name)
    return target


def _remove_and_exit(base: Path) -> None:
    shutil.rmtree(base, ignore_errors=True)
    os._exit(128 + signal.SIGTERM)


class Worker:
    """What one worker process keeps: its copy, and when to stop."""

    copy: Path
    deadline: float

    @classmethod
    def start(cls, snapshot: Path, deadline: float) -> None:
        # The tests' own process ends with this one; what is on the disk is for this one to remove.
        signal.signal(signal.SIGTERM, lambda *_: _remove_and_exit(snapshot.parent))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        die_with_parent(signal.SIGTERM)
        cls.copy = make_copy(snapshot, snapshot.with_name(str(os.getpid())))
        cls.deadline = deadline

    @classmethod
    def judge(cls, module: str, mutant: Mutant, judged_by: str) -> tuple[Mutant, Verdict]:
        if time.time() < cls.deadline:
            return mutant, judge(cls.copy, module, mutant, judged_by=judged_by)
        outcome = "not-run" if judged_by == "first" else "survived"
        return mutant, _verdict(module, mutant, outcome, "first")


def run(modules: list[str], *, seconds: float, jobs: int, quick: bool) -> Iterator[Verdict]:
    """Judge every mutant by the first tests, then the survivors by all; report each as it is known."""
    deadline = time.time() + seconds
    with tempfile.TemporaryDirectory(prefix="bondstone-mutation-") as base:
        snapshot = make_copy(ROOT, Path(base, "snapshot"))
        for module in modules:
            require_sound(snapshot, module)
        # Each worker is a process with one thread: a mutant's process is forked from it.
        with ProcessPoolExecutor(
            jobs, get_context("spawn"), initializer=Worker.start, initargs=(snapshot, deadline)
        ) as pool:
            try:
                yield from _judge_all(pool, snapshot, modules, deadline=deadline, quick=quick)
            except BaseException:
                # Stopped: whatever is queued or running means nothing any more.
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in active_children():
                    worker.terminate()
                raise


def _judge_all(
    pool: ProcessPoolExecutor, snapshot: Path, modules: list[str], *, deadline: float, quick: bool
) -> Iterator[Verdict]:
    pending = {
        pool.submit(Worker.judge, module, mutant, "first")
        for module in modules
        for mutant in mutants_of(source_of(snapshot, module).read_text())
    }
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for mutant, verdict in (future.result() for future in done):
            more = not quick and time.time() < deadline
            if more and verdict.outcome == "survived" and verdict.judged_by == "first":
                pending.add(pool.submit(Worker.judge, verdict.module, mutant, "all"))
            else:
                yield verdict


def main() -> None:
    """Parse arguments, run, print; exit code 1 if a mutant survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(MODULES)}; all if none")
    parser.add_argument("--seconds", type=float, default=3600, help="start no mutant after this time")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="only the first tests, so more survive")
    parser.add_argument("--json", action="store_true", help="one object per mutant, on a line each")
    options = parser.parse_args()
    modules = options.modules or list(MODULES)
    if unknown := set(modules) - set(MODULES):
        parser.error(f"no such module: {', '.join(sorted(unknown))}")
    # Stopped politely or by Ctrl-C, the run ends by an exception, which cleans up on its way.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.nice(10)
    os.environ.setdefault("BONDSTONE_VECTORS", str(ROOT.parent / "shared" / "vectors"))
    totals: Counter[tuple[str, str]] = Counter()
    for verdict in run(modules, seconds=options.seconds, jobs=options.jobs, quick=options.quick):
        totals[verdict.module, verdict.outcome] += 1
        if options.json:
            print(json.dumps(asdict(verdict)), flush=True)
        elif verdict.outcome == "survived":
            print(
                f"attestation/{MODULES[verdict.module][0]}.py:{verdict.line}: {verdict.before!r} -> {verdict.after!r}",
                flush=True,
            )
    for module in modules:
        counts = {outcome: count for (of, outcome), count in sorted(totals.items()) if of == module}
        print(f"{module}: {json.dumps(counts)}", file=sys.stderr)
    sys.exit(any(outcome == "survived" for _, outcome in totals))
