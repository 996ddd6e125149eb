"""What every kind of run has in common: the plan, the stage, the verdict."""

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from node.simulation.linearizability import NotLinearizableError, UndecidedHistoryError
from tests.chaos.cluster import CONVERGE_S, ChaosCluster, can_fake_clocks, chaos_cluster
from tests.chaos.files import Kind
from tests.chaos.ledger import LedgerError
from tests.chaos.nemesis import Nemesis
from tests.support.netns import namespace_network, unavailable

# What must never stand in an honest node's audit log, whatever the network and the hosts do.
FORBIDDEN_EVENTS: Final = frozenset({"member-halted", "protocol-violation", "rival-cluster"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run.

    Attributes:
        seconds: of faults; starting, healing and checking come on top.
        pause_max_s: the longest that a process stands still.
        converge_s: how long the group may take to be whole again after all faults have ended.
        only: the faults to draw from; empty means all.
        sample_every_s: how often memory, files, threads and tasks are looked at; 0 means never.
    """

    seed: int
    seconds: float
    nodes: int
    pause_max_s: float
    loopback: bool
    kind: Kind
    converge_s: float = CONVERGE_S
    only: frozenset[str] = frozenset()
    sample_every_s: float = 0.0


@dataclass(slots=True)
class Verdict:
    """What was looked at, and which promises were found broken: by stable code, with what shows it."""

    broken: dict[str, str] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def promise(self, code: str) -> Iterator[None]:
        """Take a failed assertion within as this promise broken, and go on: one breach often has several
        signs, and the first is not always the clearest."""
        try:
            yield
        except LedgerError as exc:
            self.broken[exc.promise] = str(exc)
        except UndecidedHistoryError as exc:
            self.broken["undecided"] = str(exc)
        except (AssertionError, NotLinearizableError) as exc:
            self.broken[code] = str(exc)


@contextmanager
def staged(
    plan: Plan, directory: Path, say: Callable[[str], None], rng: random.Random
) -> Iterator[tuple[ChaosCluster, Nemesis]]:
    """Build the network, start the nodes, and wait until all of them vote."""
    with ExitStack() as stack:
        network = None
        missing = "asked for" if plan.loopback else unavailable()
        if missing is None:
            network = stack.enter_context(namespace_network(plan.nodes, random.Random(rng.random())))
        else:
            say(f"loopback only ({missing}): no network faults")
        if not can_fake_clocks():
            say("no clock jumps (apt-get install faketime)")
        cluster = stack.enter_context(chaos_cluster(directory, plan.nodes, network, plan.kind))
        yield (
            cluster,
            Nemesis(
                cluster=cluster,
                rng=random.Random(rng.random()),
                say=say,
                pause_max_s=plan.pause_max_s,
                only=plan.only,
            ),
        )


def torment(plan: Plan, cluster: ChaosCluster, nemesis: Nemesis, verdict: Verdict) -> float:
    """Hurt the cluster, heal it, and wait until it is whole; return how many seconds that took."""
    nemesis.torment(plan.seconds)
    healed = time.monotonic()
    with verdict.promise("group-not-whole"):
        cluster.until_whole("the group is whole again after all faults have ended", plan.converge_s)
    return round(time.monotonic() - healed, 1)


def check_audit_logs(cluster: ChaosCluster, verdict: Verdict) -> None:
    """Look for what no honest node ever notes."""
    with verdict.promise("forbidden-in-audit-log"):
        kinds = {record["kind"] for record in cluster.audit_records()}
        assert not kinds & FORBIDDEN_EVENTS, ", ".join(sorted(kinds & FORBIDDEN_EVENTS))


def report_of(plan: Plan, cluster: ChaosCluster, nemesis: Nemesis, verdict: Verdict) -> dict[str, Any]:
    """Return what was done and seen, and under ``broken`` which promises were not kept."""
    records = cluster.audit_records()
    configurations = {(r["epoch"], r["reason"]) for r in records if r["kind"] == "configuration-committed"}
    return {
        "seed": plan.seed,
        "broken": verdict.broken,
        "checked": verdict.checked,
        "faults": dict(nemesis.done),
        "seen": {
            **nemesis.seen,
            "hand-over": cluster.lives_told("handed-over"),
            "hand-over-refused": cluster.lives_told("not-handed-over"),
            "incarnations": len({r["peer_id"] for r in records if r["kind"] == "node-started"}),
            "terms": len({r["term"] for r in records if r["kind"] == "leader-changed"}),
        },
        "configurations": dict(Counter(reason.split()[0] for _, reason in configurations)),
        "packets": None if cluster.network is None else asdict(cluster.network.traffic()),
    }


def say_on_stderr(start: float) -> Callable[[str], None]:
    def say(text: str) -> None:
        print(f"{time.monotonic() - start:7.1f} s  {text}", file=sys.stderr, flush=True)

    return say
