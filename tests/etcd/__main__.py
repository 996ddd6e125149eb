"""Run the harness against a group of three nodes, or with ``--control`` against etcd (what setup.sh installs).

Exit code 0: every row passes, but for those in adapted.toml. 1: a row does not.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.etcd.rows import HERE, faults
from tests.support.cluster import local_cluster

HOME = Path(os.environ.get("HARNESS_HOME", Path.home() / ".cache/etcd-harness"))
SCRIPTS = ("semantics", "gateway", "ctl_matrix")
CONTROL = "https://127.0.0.1:25001"  # servers.sh: etcd 3.4, one member
SCRIPT_S_MAX = 200


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--control", action="store_true", help="against etcd itself")
    parser.add_argument("scripts", nargs="*", default=SCRIPTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        rows = _of_etcd(work, asked.scripts) if asked.control else _of_a_group(work, asked.scripts)
    found = faults(rows, control=asked.control)
    print(f"{len(rows)} rows, {len(found)} faults", *found, sep="\n")
    return 1 if found or not rows else 0


def _of_a_group(work: Path, scripts: list[str]) -> list[tuple[str, str, str, str]]:
    with local_cluster(work / "cluster") as cluster:
        target = ["--endpoint", cluster.nodes[cluster.leader()]["api"], "--ca", cluster.ready["ca"]]
        return _run(work, scripts, [*target, "--token", cluster.ready["token"]])


def _of_etcd(work: Path, scripts: list[str]) -> list[tuple[str, str, str, str]]:
    servers = [str(HERE / "servers.sh"), "", "3.4", "1"]
    env = {**os.environ, "HARNESS_RUN": str(work)}
    try:
        subprocess.run(["bash", servers[0], "start", *servers[2:]], env=env, check=True)
        return _run(work, scripts, ["--endpoint", CONTROL, "--ca", str(work / "certs/ca.pem")])
    finally:
        subprocess.run(["bash", servers[0], "stop", *servers[2:]], env=env, check=True)


def _run(work: Path, scripts: list[str], target: list[str]) -> list[tuple[str, str, str, str]]:
    report = work / "report.tsv"
    python = HOME / "vclients/bin/python"
    for script in scripts:
        subprocess.run(
            [python, HERE / f"{script}.py", *target, "--report", report],
            cwd=HERE,
            env={**os.environ, "HARNESS_RUN": str(work)},
            timeout=SCRIPT_S_MAX,
            check=False,  # the report has the verdicts
        )
    rows = []
    for line in report.read_text().splitlines():
        _, suite, name, verdict, note = line.split("\t")
        rows.append((suite, name, verdict, note))
    return rows


if __name__ == "__main__":
    sys.exit(main())
