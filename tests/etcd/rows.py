"""What the rows of the harness promise, and which of them are adapted."""

import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ADAPTABLE = ("own", "refuse", "should")


def levels() -> dict[str, dict[str, str]]:
    """Return the level of each row that is no must, by suite and id."""
    return tomllib.loads((HERE / "levels.toml").read_text())


def adapted() -> dict[str, dict[str, str]]:
    """Return the reason why a row is answered otherwise than by etcd, by suite and id."""
    return tomllib.loads((HERE / "adapted.toml").read_text())


def key_of(suite: str, name: str) -> tuple[str, str]:
    """Return suite and id of a row, as in both files: ``etcdctl-3.4.23`` is ``etcdctl``, ``HDR-01 ...`` is ``HDR-01``."""
    return suite.partition("-")[0], name.split(maxsplit=1)[0]


def faults(rows: list[tuple[str, str, str, str]], *, control: bool) -> list[str]:
    """Return what is wrong with the verdicts of a run; each row is suite, name, verdict and note.

    Of etcd itself (``control``) every row passes.
    """
    reasons = {} if control else adapted()
    found = []
    for suite, name, verdict, note in rows:
        kind, row = key_of(suite, name)
        expected = row in reasons.get(kind, {})
        if verdict == "FAIL" and not expected:
            found.append(f"{kind} {row} failed: {note}")
        if verdict == "PASS" and expected:
            found.append(f"{kind} {row} passes: take it out of adapted.toml")
    return found
