"""One run of chaos on the key-value machine, and the verdict."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from tests.chaos.clerks import Clerk, clerks_at_work, read_everything
from tests.chaos.cluster import ChaosCluster
from tests.chaos.follower import Follower, following
from tests.chaos.history import History, Outcome
from tests.chaos.ledger import CHECKS, Ledger, check_complete
from tests.chaos.stage import Plan, Verdict, check_audit_logs, report_of, staged, torment
from tests.chaos.vitals import Vitals
from tests.support.cluster import until

FINAL_DEADLINE_S: Final = 30.0


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
        cluster, nemesis = stack.enter_context(staged(plan, directory, say, rng))
        follower = stack.enter_context(
            following(cluster, ledger, history.errors, random.Random(rng.random()))
        )
        with clerks_at_work(cluster, history, rng), _sampled(cluster, vitals, plan, history.errors):
            converged_s = torment(plan, cluster, nemesis, verdict)
        follower.stop()
        _judge(cluster, history, ledger, verdict, follower, rng, min(plan.converge_s, FINAL_DEADLINE_S))
        return report_of(plan, cluster, nemesis, verdict) | {
            "calls": history.outcomes(),
            "keys": len(history.keys()),
            "converged_s": converged_s,
            "vitals": vitals.report(),
        }


@contextmanager
def _sampled(cluster: ChaosCluster, vitals: Vitals, plan: Plan, errors: list[str]) -> Iterator[None]:
    """Look at the nodes now and then, in a thread, while the context is open."""
    stop = threading.Event()
    start = time.monotonic()

    def sample() -> None:
        while not stop.wait(plan.sample_every_s):
            try:
                vitals.take(cluster, time.monotonic() - start)
            except Exception as exc:
                errors.append(f"vitals: {type(exc).__name__}: {exc}")
                return

    thread = threading.Thread(target=sample, name="vitals")
    if plan.sample_every_s:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if plan.sample_every_s:
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
    check_audit_logs(cluster, verdict)
    answered = sum(call.outcome is Outcome.ANSWERED for call in history.calls)
    with verdict.promise("nothing-was-answered"):
        assert answered, history.outcomes()
    verdict.checked |= {"answers": answered, "revisions": ledger.last, "sights": len(ledger.sights)}
