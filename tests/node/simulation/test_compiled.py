"""The compiled copy of the simulator: when it is made, what it is compared with, and which of the two decides."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from node.simulation import __main__ as program
from node.simulation import compiled
from node.simulation.campaign import outcomes
from node.simulation.compiled import CompileError, DivergenceError, build, compare, is_compiled, read

ROOT = Path(__file__).parents[3]


def child(text, code=0):
    program = f"import sys; print({text!r}); sys.exit({code})"
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


class TestBuild:
    def compiling(self, monkeypatch, *, does=lambda copy: None):
        """Replace mypyc; return the directories it was called for."""
        calls = []

        def compile_(copy, sources, *, counts_branches):
            calls.append(copy)
            (copy / "made").write_text("\n".join(sources))
            does(copy)

        monkeypatch.setattr(compiled, "_compile", compile_)
        return calls

    def test_a_copy_is_made_once_for_one_source(self, tmp_path, monkeypatch):
        calls = self.compiling(monkeypatch)
        told = []

        first = build(tmp_path, tell=told.append)
        second = build(tmp_path, tell=told.append)

        assert first == second
        assert [len(calls), len(told)] == [1, 1]
        assert [first] == list(tmp_path.iterdir())
        assert "node/raft/member.py" in (first / "made").read_text().splitlines()

    def test_another_source_is_another_copy(self, tmp_path, monkeypatch):
        self.compiling(monkeypatch)
        first = build(tmp_path, tell=lambda _: None)
        sources = compiled._sources()
        monkeypatch.setattr(compiled, "_sources", lambda: sources[1:])

        assert build(tmp_path, tell=lambda _: None) != first

    def test_what_fails_half_way_leaves_nothing(self, tmp_path, monkeypatch):
        def fail(copy):
            raise CompileError("no")

        self.compiling(monkeypatch, does=fail)

        with pytest.raises(CompileError):
            build(tmp_path, tell=lambda _: None)

        assert list(tmp_path.iterdir()) == []

    def test_a_faster_process_with_the_same_source_wins(self, tmp_path, monkeypatch):
        def race(copy):
            digest = compiled._digest(compiled._sources(), compiled._versions())
            (tmp_path / digest / "node").mkdir(parents=True)

        self.compiling(monkeypatch, does=race)

        copy = build(tmp_path, tell=lambda _: None)

        assert [copy] == list(tmp_path.iterdir())
        assert not (copy / "made").exists()

    def test_without_mypyc_the_error_names_what_to_install(self, tmp_path, monkeypatch):
        def missing(name):
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(compiled.metadata, "version", missing)

        with pytest.raises(CompileError, match=r"mypy is not installed. hint: pip install mypy setuptools"):
            build(tmp_path, tell=lambda _: None)

    def test_without_a_c_compiler_the_error_names_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setattr(compiled.shutil, "which", lambda _: None)

        with pytest.raises(CompileError, match=r"no C compiler .* hint: apt-get install gcc"):
            build(tmp_path, tell=lambda _: None)

    def twice_or_once(self, tmp_path, monkeypatch, *, counts_branches):
        """Compile with nothing but what happens when; return that."""
        happened = []

        def mypyc(copy, chosen, flags):
            assert "node/raft/member.py" in chosen
            assert not list(copy.rglob("*.so")), "what is there is taken for finished"
            happened.append([word for word in flags.split() if "profile" in word])
            (copy / "build").mkdir(exist_ok=True)
            (copy / "build/member.gcda").touch()
            (copy / "member.so").touch()

        def trained(copy, module, *arguments):
            assert (copy / "member.so").exists()
            happened.append(module)

        monkeypatch.setattr(compiled, "_run_mypyc", mypyc)
        monkeypatch.setattr(compiled, "start", trained)
        monkeypatch.setattr(compiled, "read", lambda child: {})
        compiled._compile(tmp_path, compiled._sources(), counts_branches=counts_branches)
        assert (tmp_path / "member.so").exists()
        assert not (tmp_path / "build").exists()
        return happened

    def test_gcc_counts_branches_in_a_simulation_and_then_compiles_by_the_counts(self, tmp_path, monkeypatch):
        first, training, second = self.twice_or_once(tmp_path, monkeypatch, counts_branches=True)

        assert first == ["-fprofile-generate"]
        assert training == "node.simulation"
        assert "-fprofile-use" in second

    def test_another_compiler_compiles_once(self, tmp_path, monkeypatch):
        assert self.twice_or_once(tmp_path, monkeypatch, counts_branches=False) == [[]]

    def test_the_source_that_tests_run_is_interpreted(self):
        assert not is_compiled()


class TestProof:
    def test_a_seed_that_comes_out_differently_is_named(self):
        with pytest.raises(DivergenceError, match="seed 2: b when interpreted, c when compiled"):
            compare({"1": "a", "2": "b"}, {"1": "a", "2": "c"})

    def test_a_seed_that_is_missing_is_named(self):
        with pytest.raises(DivergenceError, match="seed 2: b when interpreted, nothing when compiled"):
            compare({"1": "a", "2": "b"}, {"1": "a"})

    def test_a_copy_that_dies_is_distinguished_from_one_that_answers(self):
        with pytest.raises(DivergenceError, match="ended with exit code 3"):
            read(child("", code=3))

    def test_the_interpreter_is_not_taken_for_the_copy(self):
        with pytest.raises(DivergenceError, match="not the compiled copy"):
            read(child('{"compiled": false}'))

    def test_the_digests_of_a_process_are_those_of_another(self):
        command = [sys.executable, "-m", "node.simulation", "--digests", "2", "--first", "7"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

        assert {"compiled": False, "outcomes": outcomes(7, 2, events=600)} == json.loads(done.stdout)


class TestLastWord:
    def run(self, monkeypatch, capsys, failures):
        value = {"first_seed": 0, "seconds": 1.0, "schedules": 1, "failures": failures, "interrupted": False}
        monkeypatch.setattr(sys, "argv", ["simulation", "--compiled", "--first", "0", "--events", "50"])
        monkeypatch.setattr(program, "_compiled_campaign", lambda *_: value)
        code = program.main()
        return code, capsys.readouterr().err

    def test_what_the_interpreter_does_not_find_is_an_error_of_the_copy(self, monkeypatch, capsys):
        code, said = self.run(monkeypatch, capsys, [{"seed": 0, "oracle": "liveness"}])

        assert code == 1
        assert "contradicted liveness, and nothing when interpreted again: the compiled copy is wrong" in said

    def test_ctrl_c_before_the_first_schedule_ends_it_without_a_traceback(self, monkeypatch, capsys):
        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(sys, "argv", ["simulation", "--compiled"])
        monkeypatch.setattr(program, "_compiled_campaign", interrupted)

        assert program.main() == program.INTERRUPTED
        assert "interrupted" in capsys.readouterr().err

    def test_without_failures_nothing_is_run_again(self, monkeypatch, capsys):
        assert self.run(monkeypatch, capsys, []) == (0, "")


def test_a_copy_has_all_that_a_campaign_imports():
    """What it lacks would be missing, for its packages hide the source's."""
    code = (
        "import json, sys, node.simulation.campaign, node.simulation.__main__;"
        "print(json.dumps([str(getattr(m, '__file__', None)) for m in list(sys.modules.values())]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages = [ROOT / name for name in ("attestation", "enclave", "node")]
    files = [Path(name).resolve() for name in json.loads(found.stdout)]
    imported = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if any(path.is_relative_to(package) for package in packages)
    }

    assert imported - set(compiled._sources()) == set()
    assert "node/simulation/campaign.py" in imported


@pytest.mark.long
@pytest.mark.timeout(880)
def test_a_compiled_campaign_is_proven_and_reports_that_it_is_compiled(tmp_path):
    command = [sys.executable, "-m", "node.simulation", "--compiled", "--json"]
    command += ["--seconds", "5", "--jobs", "1", "--first", "0"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["compiled"]
    assert value["schedules"]
    assert "40 traces are the same" in done.stderr
