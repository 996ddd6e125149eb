"""One run of chaos on the counter: every client adds one, again and again.

The sum shows everything: every acknowledged addition has a place of its own between 1 and the sum, and what is
left over are additions whose clients never learned what became of them. No revision and no key is involved,
nothing but the counter and the promise of exactly once.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from node.client import BondstoneClient
from node.client.errors import NotExecutedError, OutcomeUnknownError, UnreachableError
from tests.chaos.cluster import ChaosCluster
from tests.chaos.ledger import LedgerError
from tests.chaos.stage import Plan, Verdict, check_audit_logs, report_of, staged, torment
from tests.support.cluster import until

ROAMERS: Final = 3
THINK_S: Final = (0.005, 0.05)
READS: Final = 0.3  # the share of strong reads
FINAL_DEADLINE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Count:
    """One addition, or one strong read; the value afterwards, or None without an answer."""

    is_read: bool
    invoked: int
    returned: int | None
    value: int | None


@dataclass(slots=True)
class Tally:
    """What all clients did. ``refused``: when additions began that have not happened and never will."""

    counts: list[Count] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def additions(self) -> list[Count]:
        return [count for count in self.counts if not count.is_read]


def check_tally(counts: Iterable[Count], total: int) -> int:
    """Return how many additions without an answer have happened.

    Args:
        counts: all but those that were refused.
        total: what the counter shows in the end.

    Raises:
        LedgerError: additions were lost, or happened twice, or an answer is of the past.
    """
    placed: dict[int, Count] = {}
    known = list(counts)
    for count in known:
        if count.is_read or count.value is None:
            continue
        if count.value in placed:
            raise LedgerError("applied-twice", f"{count} and {placed[count.value]} were given one place")
        if not 0 < count.value <= total:
            raise LedgerError("acknowledged-write-lost", f"{count}, but the counter ends at {total}")
        placed[count.value] = count
    _check_order(known)
    gaps = [value for value in range(1, total + 1) if value not in placed]
    unknown = sorted(count.invoked for count in known if not count.is_read and count.value is None)
    if len(gaps) > len(unknown):
        raise LedgerError("applied-twice", f"{total} = {len(placed)} and at most {len(unknown)}")
    for gap, invoked in zip(gaps, unknown, strict=False):
        # The n-th gap needs n additions that had begun before anything later had ended.
        ends = [c.returned for c in known if c.value is not None and c.value > gap and c.returned is not None]
        if ends and min(ends) < invoked:
            raise LedgerError(
                "applied-twice", f"nothing without an answer had begun in time to be number {gap}"
            )
    return len(gaps)


def _check_order(counts: list[Count]) -> None:
    answered = [count for count in counts if count.value is not None]
    latest: Count | None = None
    for count in sorted(answered, key=lambda count: (count.value, count.is_read)):
        assert count.returned is not None
        apart = latest is not None and not (count.is_read and latest.is_read and count.value == latest.value)
        if latest is not None and apart and count.returned < latest.invoked:
            raise LedgerError("stale-answer", f"{count} came to its end before {latest} began")
        latest = max([count, *([latest] if latest else [])], key=lambda count: count.invoked)


def run_counting(plan: Plan, directory: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run it. Returns and raises as ``run.run``."""
    rng = random.Random(plan.seed)
    tally, verdict = Tally(), Verdict()
    with staged(plan, directory, say, rng) as (cluster, nemesis):
        with _adders(cluster, tally, rng):
            converged_s = torment(plan, cluster, nemesis, verdict)
        total = _total(cluster, verdict)
        if total is not None:
            with verdict.promise("counted"):
                verdict.checked["gaps"] = check_tally(tally.counts, total)
        with verdict.promise("impossible-answer"):
            assert not tally.errors, "\n".join(tally.errors)
        check_audit_logs(cluster, verdict)
        additions = tally.additions()
        unanswered = sum(count.value is None for count in additions)
        verdict.checked["additions"] = len(additions) - unanswered
        verdict.checked["reads"] = len(tally.counts) - len(additions)
        with verdict.promise("nothing-was-answered"):
            assert verdict.checked["additions"], f"{len(tally.refused)} were refused"
        return report_of(plan, cluster, nemesis, verdict) | {
            "calls": {"unanswered": unanswered, "refused": len(tally.refused)},
            "total": total,
            "converged_s": converged_s,
        }


def _total(cluster: ChaosCluster, verdict: Verdict) -> int | None:
    """Return the counter as a strong read and then every node show it; None if they do not agree."""
    with verdict.promise("cannot-be-read"):
        with cluster.client(*cluster.nodes, deadline_s=FINAL_DEADLINE_S, attempt_s=10) as client:
            answer = until(lambda: _asked(client, consistency="strong"), "the counter is read")
        for node in cluster.nodes:
            with cluster.client(node, deadline_s=FINAL_DEADLINE_S, attempt_s=10) as client:
                told = until(
                    lambda client=client: _asked(client, consistency="weak", min_at=answer.at),
                    f"{node.name} tells",
                )
            if told.result != answer.result:
                raise LedgerError("node-diverged", f"{node.name}: {told.result}, strong: {answer.result}")
        return int(answer.result["value"])
    return None


def _asked(client: BondstoneClient, **how: Any) -> Any:
    try:
        return client.query({"op": "get"}, **how)
    except (NotExecutedError, UnreachableError):
        return None


def _add(client: BondstoneClient, tally: Tally, *, read: bool) -> None:
    invoked = time.monotonic_ns()
    returned: int | None = None
    value: int | None = None
    try:
        answer = client.query({"op": "get"}) if read else client.execute({"op": "add", "by": 1})
        returned, value = time.monotonic_ns(), int(answer.result["value"])
    except OutcomeUnknownError:
        pass
    except (NotExecutedError, UnreachableError):
        if not read:
            tally.refused.append(invoked)
        return
    tally.counts.append(Count(read, invoked, returned, value))


@contextmanager
def _adders(cluster: ChaosCluster, tally: Tally, rng: random.Random) -> Iterator[None]:
    """Clients that go to any node, and one at each node."""
    stop = threading.Event()
    clients = [
        cluster.client(*rng.sample(cluster.nodes, len(cluster.nodes)), deadline_s=5, attempt_s=2)
        for _ in range(ROAMERS)
    ]
    clients += [cluster.client(node, deadline_s=3, attempt_s=3) for node in cluster.nodes]

    def work(client: BondstoneClient, own: random.Random) -> None:
        with client:
            while not stop.wait(own.uniform(*THINK_S)):
                try:
                    _add(client, tally, read=own.random() < READS)
                except Exception as exc:
                    tally.errors.append(f"{type(exc).__name__}: {exc}")
                    return

    threads = [
        threading.Thread(target=work, args=(client, random.Random(rng.random()))) for client in clients
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
