"""``/metrics`` for Prometheus, read from the node's own state at the moment of the scrape."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from attestation.background import Background
from node.api.operations import PATHS, path_of
from node.api.service import GroupView, Service, UnavailableError
from node.api.views import is_ill
from node.places import Usage
from node.raft.keys import KEYS_MAX
from node.raft.types import MemberStatus, Role

# Bounds of the histogram in seconds, from a local commit to a failover.
_LATENCY_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_OTHER: Final = "other"


class ApiMetrics:
    """Counts requests, and renders all metrics."""

    def __init__(self, service: Service, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._requests: Counter[tuple[str, int]] = Counter()
        self._latency = _LatencyCollector()
        registry.register(self._latency)
        registry.register(_RequestsCollector(self._requests))
        registry.register(_GroupCollector(service))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

    def request_answered(self, path: str, status: int) -> None:
        """Count one answer. Unknown paths share one label, so a scanner cannot grow the table."""
        path = path_of(path)
        self._requests[(path if path in PATHS else _OTHER, status)] += 1

    def command_took(self, seconds: float) -> None:
        self._latency.observe(seconds)

    def render(self) -> bytes:
        """Return the text format."""
        return generate_latest(self._registry)


class _LatencyCollector(Collector):
    """A histogram for one thread. The library's own takes a lock on each observation, on the hot path."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_LATENCY_BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(_LATENCY_BUCKETS, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        names = [*(str(bound) for bound in _LATENCY_BUCKETS), "+Inf"]
        buckets = list(zip(names, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(
            "bondstone_command_seconds",
            "Time from a command's arrival to its answer, successful ones only.",
            buckets=buckets,
            sum_value=self._sum,
        )


class _RequestsCollector(Collector):
    def __init__(self, requests: Counter[tuple[str, int]]) -> None:
        self._requests = requests

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "bondstone_http_requests", "Answered requests.", labels=("path", "status")
        )
        for (path, status), count in sorted(self._requests.items()):
            family.add_metric((path, str(status)), count)
        yield family


class BackgroundCollector(Collector):
    """Metrics of the work in the background; its owner registers them."""

    def __init__(self, background: Background) -> None:
        self._background = background

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        running = GaugeMetricFamily("bondstone_background_running", "Work that runs now.", labels=("work",))
        failures = CounterMetricFamily(
            "bondstone_background_failures", "Background tasks that ended with an error.", labels=("work",)
        )
        for report in self._background.reports():
            running.add_metric((report.name,), report.running)
            failures.add_metric((report.name,), report.failures)
        yield running
        yield failures


class PoolsCollector(Collector):
    """How much is in use of every pool that strangers or callers can fill; the daemon registers it.

    Args:
        usages: returns the usages of this moment.
    """

    def __init__(self, usages: Callable[[], Iterable[Usage]]) -> None:
        self._usages = usages

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        limit = GaugeMetricFamily(
            "bondstone_pool_limit", "Size of the pool, in places or bytes.", labels=("pool",)
        )
        taken = GaugeMetricFamily(
            "bondstone_pool_taken", "Places or bytes of the pool in use.", labels=("pool", "standing")
        )
        sent_away = CounterMetricFamily(
            "bondstone_pool_sent_away",
            "Number of times that a holder was evicted or a newcomer refused.",
            labels=("pool",),
        )
        for usage in self._usages():
            limit.add_metric((usage.pool,), usage.limit)
            taken.add_metric((usage.pool, "stranger"), usage.strangers)
            taken.add_metric((usage.pool, "known"), usage.known)
            sent_away.add_metric((usage.pool,), usage.sent_away)
        yield limit
        yield taken
        yield sent_away


class _GroupCollector(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> list[GaugeMetricFamily]:
        """Return nothing: registration must not ask the node for a group that does not exist yet."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        service = self._service
        yield _gauge("ready", "1 if the node is online in its group.", service.readiness().ready)
        yield _gauge("mock", "1 if attestation on this node is not rooted in real hardware.", service.mock)
        yield _gauge("bonds", "Living bonds.", len(service.bonds()))
        try:
            view = service.group()
        except UnavailableError:
            return
        status = view.status
        leads = status.role is Role.LEADER and status.halted is None
        yield _gauge("leader", "1 if this node is the leader.", leads)
        outlook = view.outlook
        yield _gauge("quorum_missing", "1 if this node sees no quorum, or too few copies.", is_ill(outlook))
        yield _gauge("quorum_gone", "1 if waiting cannot bring the quorum back.", not outlook.waiting_helps)
        yield _gauge("voters_missing", "Voters that this node knows to be missing.", len(outlook.absent))
        yield _gauge("leader_known", "1 if this node knows a leader.", status.leader is not None)
        yield _gauge("term", "Raft term.", status.term)
        yield _gauge("commit_index", "Index of the newest committed entry.", status.commit.index)
        yield _gauge("applied_index", "Index of the newest applied entry.", status.applied)
        yield _gauge("last_index", "Index of the newest entry.", status.last.index)
        yield from _of_sizes(view)
        yield _gauge("config_epoch", "Number of the group's configuration.", status.config_epoch)
        yield _gauge("voters", "Members that vote.", len(status.voters))
        yield _gauge("learners", "Members that do not vote.", len(status.learners))
        if view.covered_age_ms is not None:
            yield _gauge(
                "state_age_seconds",
                "Time since the state here covered all that a leader had committed; absent if it never did.",
                view.covered_age_ms / 1000,
            )
        use = view.key_use
        yield _gauge("idempotency_keys", "Idempotency keys that are remembered.", use.keys)
        yield _gauge("idempotency_keys_max", "Above this number, commands with a key are refused.", KEYS_MAX)
        yield _gauge("kept_result_bytes", "Kept results of these keys.", use.kept_bytes)
        yield _gauge("brief_results", "Keys of whose results only digest and size are kept.", use.brief)
        yield _gauge("halted", "1 if this member has stopped for good.", status.halted is not None)


def _of_memory(view: GroupView) -> Iterator[GaugeMetricFamily]:
    use, budget = view.memory.use, view.memory.budget
    yield _gauge("memory_budget_bytes", "How much this node may use.", budget.size)
    yield _gauge("memory_mark_bytes", "With more in use at a voter, its leader refuses writes.", budget.mark)
    yield _gauge("store_quota_bytes", "How much the machine's state may take.", view.quota_bytes)
    parts = GaugeMetricFamily("bondstone_memory_bytes", "Memory in use, by part.", labels=("part",))
    for part, size in use._asdict().items():
        parts.add_metric((part.replace("kept", "kept_results"),), size)
    yield parts
    text = "Members for whose memory this node, as the leader, refuses writes."
    yield _gauge("memory_pressed", text, len(view.memory.pressed))


def _of_sizes(view: GroupView) -> Iterator[GaugeMetricFamily]:
    yield from _of_log(view.status)
    yield from _of_memory(view)


def _of_log(status: MemberStatus) -> Iterator[GaugeMetricFamily]:
    yield _gauge("log_first_index", "Index of the first entry that the log still has.", status.base + 1)
    yield _gauge("log_bytes", "About how much the log's entries take.", status.log_bytes)
    if status.snapshot is not None:
        yield _gauge("snapshot_index", "Index of the newest snapshot held.", status.snapshot.at.index)
        yield _gauge("snapshot_bytes", "Its size.", status.snapshot.size)
    if status.install is not None:
        share = status.install.done / status.install.count
        yield _gauge("install_ratio", "How much of the state that is fetched is here, 0 to 1.", share)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"bondstone_{name}", text, value=float(value))
