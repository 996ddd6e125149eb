"""One run of chaos, and the verdict."""

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tests.chaos.cluster import CONVERGE_S, ChaosCluster, can_fake_clocks, chaos_cluster
from tests.chaos.history import Clerk, History, read_everything
from tests.chaos.nemesis import Nemesis
from tests.support.cluster import until
from tests.support.netns import namespace_network, unavailable

ROAMERS: Final = 3
# What must never stand in an honest node's audit log, whatever the network and the hosts do.
FORBIDDEN_EVENTS: Final = frozenset({"member-halted", "protocol-violation", "rival-cluster"})


class ChaosError(Exception):
    """The cluster broke a promise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run.

    Attributes:
        seconds: of faults; starting, healing and checking come on top.
        pause_max_s: the longest that a process stands still.
    """

    seed: int
    seconds: float
    nodes: int
    pause_max_s: float
    loopback: bool
    trust_disk: bool


def run(plan: Plan, directory: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run it.

    Returns:
        what was done and seen, for people.

    Raises:
        ChaosError, NotLinearizableError, AssertionError: a promise was broken.
    """
    rng = random.Random(plan.seed)
    history = History()
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
        cluster = stack.enter_context(
            chaos_cluster(directory, plan.nodes, network, trust_disk=plan.trust_disk)
        )
        nemesis = Nemesis(
            cluster=cluster, rng=random.Random(rng.random()), say=say, pause_max_s=plan.pause_max_s
        )
        with _clerks(cluster, history, rng):
            nemesis.torment(plan.seconds)
            healed = time.monotonic()
            cluster.until_whole("the group is whole again after all faults have ended")
            converged_s = time.monotonic() - healed
        keys = sorted({operation.key for operation in history.operations})
        with cluster.client(*cluster.nodes, deadline_s=30, attempt_s=10) as client:
            read_everything(Clerk("final", client, history, rng), keys)
        until(lambda: _all_equal(cluster), "all nodes hold the same", CONVERGE_S)
        return {
            "seed": plan.seed,
            "faults": dict(nemesis.done),
            "outcomes": dict(history.outcomes),
            "keys": len(keys),
            "checked": _verdict(cluster, history),
            "converged_s": round(converged_s, 1),
            "packets": None if network is None else asdict(network.traffic()),
            "term": max(status.term for node in cluster.nodes if (status := cluster.status(node))),
        }


@contextmanager
def _clerks(cluster: ChaosCluster, history: History, rng: random.Random) -> Iterator[None]:
    """Clients that go to any node, and one at each node that never leaves it, whatever happens to it."""
    stop = threading.Event()
    clerks = []
    for number in range(ROAMERS):
        nodes = rng.sample(cluster.nodes, len(cluster.nodes))
        clerks.append((f"roamer-{number}", cluster.client(*nodes, deadline_s=5, attempt_s=2)))
    for node in cluster.nodes:
        clerks.append((f"at-{node.name}", cluster.client(node, deadline_s=3, attempt_s=3)))
    threads = [
        threading.Thread(
            target=Clerk(name, client, history, random.Random(rng.random())).run, args=(stop,), name=name
        )
        for name, client in clerks
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _all_equal(cluster: ChaosCluster) -> bool:
    contents = cluster.contents()
    return len(contents) == len(cluster.nodes) and all(items == contents[0] for items in contents)


def _verdict(cluster: ChaosCluster, history: History) -> int:
    if history.errors:
        raise ChaosError("a client saw what it must never see:\n" + "\n".join(history.errors))
    acknowledged = sum(history.outcomes[kind] for kind in ("put", "cas", "get"))
    if not acknowledged:
        raise ChaosError(f"nothing was ever answered: {dict(history.outcomes)}")
    if forbidden := cluster.audit_kinds() & FORBIDDEN_EVENTS:
        raise ChaosError(f"in an audit log: {', '.join(sorted(forbidden))}")
    return history.check()


def say_on_stderr(start: float) -> Callable[[str], None]:
    def say(text: str) -> None:
        print(f"{time.monotonic() - start:7.1f} s  {text}", file=sys.stderr, flush=True)

    return say
