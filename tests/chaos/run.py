"""One run of chaos, and the verdict."""

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from node.simulation.linearizability import NotLinearizableError, UndecidedError
from tests.chaos.clerks import Clerk, clerks_at_work, read_everything
from tests.chaos.cluster import CONVERGE_S, ChaosCluster, Kind, can_fake_clocks, chaos_cluster
from tests.chaos.follower import Follower, following
from tests.chaos.history import History, Outcome
from tests.chaos.ledger import CHECKS, Ledger, LedgerError, check_complete
from tests.chaos.nemesis import Nemesis
from tests.chaos.vitals import Vitals
from tests.support.cluster import until
from tests.support.netns import namespace_network, unavailable

# What must never stand in an honest node's audit log, whatever the network and the hosts do.
FORBIDDEN_EVENTS: Final = frozenset({"member-halted", "protocol-violation", "rival-cluster"})
FINAL_DEADLINE_S: Final = 30.0


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
        signs, and the first is not always the one that tells most."""
        try:
            yield
        except LedgerError as exc:
            self.broken[exc.promise] = str(exc)
        except UndecidedError as exc:
            self.broken["undecided"] = str(exc)
        except (AssertionError, NotLinearizableError) as exc:
            self.broken[code] = str(exc)


def run(plan: Plan, directory: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run it.

    Returns:
        what was done and seen, and under ``broken`` which promises were not kept.

    Raises:
        AssertionError: the cluster could not be started, or a fault could not be done.
    """
    rng = random.Random(plan.seed)
    history, ledger, verdict, vitals = History(), Ledger(), Verdict(), Vitals()
    with ExitStack() as stack:
        stack.callback(lambda: (directory / "history.txt").write_text(history.text()))
        network = None
        missing = "asked for" if plan.loopback else unavailable()
        if missing is None:
            network = stack.enter_context(namespace_network(plan.nodes, random.Random(rng.random())))
        else:
            say(f"loopback only ({missing}): no network faults")
        if not can_fake_clocks():
            say("no clock jumps (apt-get install faketime)")
        cluster = stack.enter_context(chaos_cluster(directory, plan.nodes, network, plan.kind))
        nemesis = Nemesis(
            cluster=cluster,
            rng=random.Random(rng.random()),
            say=say,
            pause_max_s=plan.pause_max_s,
            only=plan.only,
        )
        follower = stack.enter_context(_followed(cluster, history, ledger, rng))
        with clerks_at_work(cluster, history, rng), _sampled(cluster, vitals, plan.sample_every_s):
            nemesis.torment(plan.seconds)
            healed = time.monotonic()
            with verdict.promise("group-not-whole"):
                cluster.until_whole("the group is whole again after all faults have ended", plan.converge_s)
            converged_s = time.monotonic() - healed
        _judge(cluster, history, ledger, verdict, follower, rng, min(plan.converge_s, FINAL_DEADLINE_S))
        return {
            "seed": plan.seed,
            "broken": verdict.broken,
            "checked": verdict.checked,
            "faults": dict(nemesis.done),
            "seen": dict(nemesis.seen) | _seen_from_outside(cluster),
            "calls": history.outcomes(),
            "keys": len(history.keys()),
            "configurations": _configurations(cluster),
            "converged_s": round(converged_s, 1),
            "packets": None if network is None else asdict(network.traffic()),
            "vitals": vitals.report(),
        }


@contextmanager
def _followed(
    cluster: ChaosCluster, history: History, ledger: Ledger, rng: random.Random
) -> Iterator[Follower]:
    with following(cluster, ledger, history.errors, random.Random(rng.random())) as follower:
        yield follower
    follower.close()


@contextmanager
def _sampled(cluster: ChaosCluster, vitals: Vitals, every_s: float) -> Iterator[None]:
    """Look at the nodes now and then, in a thread, while the context is open."""
    stop = threading.Event()
    start = time.monotonic()

    def sample() -> None:
        while not stop.wait(every_s):
            vitals.take(cluster, time.monotonic() - start)

    thread = threading.Thread(target=sample, name="vitals")
    if every_s:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if every_s:
            thread.join()


def _judge(
    cluster: ChaosCluster,
    history: History,
    ledger: Ledger,
    verdict: Verdict,
    follower: Follower,
    rng: random.Random,
    patience_s: float,
) -> None:
    with verdict.promise("cannot-be-read"):
        with cluster.client(*cluster.nodes, deadline_s=patience_s, attempt_s=10) as client:
            last = read_everything(Clerk("final", client, history, rng), history.keys())
        follower.reach(last)
    for node in cluster.nodes:
        with verdict.promise("node-silent"):
            until(lambda node=node: follower.step(node), f"{node.name} shows what it holds", patience_s)
    with verdict.promise("ledger"):
        check_complete(ledger)
        for check in CHECKS:
            with verdict.promise("ledger"):
                check(ledger, history.calls)
    with verdict.promise("not-linearizable"):
        verdict.checked["search"] = history.search()
    with verdict.promise("impossible-answer"):
        assert not history.errors, "\n".join(history.errors)
    with verdict.promise("forbidden-in-audit-log"):
        kinds = {record["kind"] for record in cluster.audit_records()}
        assert not kinds & FORBIDDEN_EVENTS, ", ".join(sorted(kinds & FORBIDDEN_EVENTS))
    answered = sum(call.outcome is Outcome.ANSWERED for call in history.calls)
    with verdict.promise("nothing-was-answered"):
        assert answered, history.outcomes()
    verdict.checked |= {"answers": answered, "revisions": ledger.last, "sights": len(ledger.sights)}


def _configurations(cluster: ChaosCluster) -> dict[str, int]:
    """Count the committed configurations by what they did; each is in the log of every node it reached."""
    seen = {
        (record["epoch"], record["reason"])
        for record in cluster.audit_records()
        if record["kind"] == "configuration-committed"
    }
    return dict(Counter(reason.split()[0] for _, reason in seen))


def _seen_from_outside(cluster: ChaosCluster) -> dict[str, int]:
    records = cluster.audit_records()
    return {
        "hand-over": cluster.lives_told("handed-over"),
        "hand-over-refused": cluster.lives_told("not-handed-over"),
        "incarnations": len({r["peer_id"] for r in records if r["kind"] == "node-started"}),
        "terms": len({r["term"] for r in records if r["kind"] == "leader-changed"}),
    }


def say_on_stderr(start: float) -> Callable[[str], None]:
    def say(text: str) -> None:
        print(f"{time.monotonic() - start:7.1f} s  {text}", file=sys.stderr, flush=True)

    return say
