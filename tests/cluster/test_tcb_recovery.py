"""A TCB recovery reaches a cluster of real processes through its collateral source, while a client writes."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvicorn

from attestation.values import TcbStatus
from enclave.mock.authority import MockAuthority
from enclave.mock.pccs import PCCSSettings, create_pccs, no_fault
from enclave.mock.statement import PLATFORM_OUT_OF_DATE, PLATFORM_UP_TO_DATE, Statement
from node.client import BondstoneClient
from node.dev import DevCluster
from tests.support.cluster import Process, free_port_block, until

pytestmark = pytest.mark.cluster

RECOVERY = Statement(
    platform_levels=(
        replace(PLATFORM_UP_TO_DATE, sgx_svns=(8,) * 8 + (0,) * 8, date=datetime(2026, 8, 12, tzinfo=UTC)),
        replace(PLATFORM_UP_TO_DATE, status=TcbStatus.OUT_OF_DATE, advisory_ids=("MOCK-SA-01192",)),
        PLATFORM_OUT_OF_DATE,
    ),
    tcb_evaluation_data_number=21,
    qe_evaluation_data_number=21,
)
SHORT = timedelta(seconds=40)  # nodes ask again when half of a set's window is over


class Day(DevCluster):
    """A local cluster whose collateral source turns from the standard set of before to that of the recovery."""

    promoted = False

    def statement(self, now: datetime) -> Statement:
        if self.promoted:
            return RECOVERY
        before = Statement()
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return replace(before, valid_for=now + SHORT - (midnight - before.issued_before))

    async def _serve_collateral(self) -> None:
        authority = MockAuthority.load(self.directory / "authority")

        def standard():
            now = datetime.now(UTC)
            return authority.endorsements(now, self.statement(now))

        app = create_pccs(
            PCCSSettings(
                endorsements=standard,
                early=lambda: authority.endorsements(datetime.now(UTC), RECOVERY),
                fault=no_fault,
            )
        )
        config = uvicorn.Config(app, host="127.0.0.1", port=self._pccs_port, log_config=None, lifespan="off")
        self._pccs_server = uvicorn.Server(config)
        await self._pccs_server.serve()

    def client(self, *nodes: int) -> BondstoneClient:
        return BondstoneClient(
            [f"https://{self.nodes[i].api}" for i in nodes or range(len(self.nodes))],
            token=self.token_file.read_text().strip(),
            ca=self.ca_file,
            deadline_s=30.0,
        )

    def warnings(self, node: int) -> set[str]:
        with self.client(node) as client:
            return {warning.code for warning in client.group().warnings}

    def verdicts(self, node: int) -> list[str]:
        with self.client(node) as client:
            return [bond.appraisals["tdx"]["verdict"] for bond in client.bonds().bonds]

    def refused(self, node: int) -> set[str]:
        with self.client(node) as client:
            events = client.audit_events(limit=1000)
            return {event["reason"] for event in events if event["kind"] == "bond-refused"}


@contextmanager
def running(day: Day) -> Iterator[None]:
    """Run the cluster in a thread of its own while the context is open."""
    ready, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    failures: list[BaseException] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        async with day.running():
            ready.set()
            await stop.wait()

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as exc:  # given to the test
            failures.append(exc)
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert ready.wait(90)
        assert not failures, failures
        yield
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(60)


class Writer:
    """A client that writes one value after the other; its own retries are all that it has."""

    def __init__(self, client: Callable[[], BondstoneClient]) -> None:
        self.written = 0
        self.failure: BaseException | None = None
        self._client = client
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        try:
            with self._client() as client:
                while not self._end.is_set():
                    client.put(f"key-{self.written}", "value")
                    self.written += 1
        except BaseException as exc:  # given to the test
            self.failure = exc

    def further(self, count: int) -> None:
        start = self.written
        until(lambda: self.failure or self.written >= start + count, f"{count} further writes")
        assert self.failure is None

    def end(self) -> int:
        self._end.set()
        self._thread.join(60)
        assert self.failure is None
        return self.written


def test_a_cluster_writes_on_through_a_tcb_recovery_and_keeps_strangers_out(tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    day = Day(directory, nodes=3, api_port=free_port_block(3), report=lambda _: None, pccs=True)
    with running(day):
        writer = Writer(day.client)
        writer.further(5)
        until(lambda: "tcb-next" in day.warnings(0), "the early set is reported")
        assert day.verdicts(0) == ["accepted"] * 2

        day.promoted = True
        for node in range(3):
            until(lambda node=node: day.verdicts(node) == ["standing"] * 2, f"node {node} has the new set")
            until(
                lambda node=node: {"self-standing", "member-standing"} <= day.warnings(node),
                "status warns not to restart",
            )
        writer.further(20)

        # Who restarts all the same is a stranger.
        process = day.nodes[2].process
        assert process is not None
        process.kill()
        again = Process(
            "node", "run", "--config", day.nodes[2].config_file, "--json", log=directory / "again.log"
        )
        try:
            until(lambda: "tcb-status-not-accepted" in day.refused(0), "a member refuses it")
            writer.further(20)
            assert day.verdicts(0) == ["standing"]
        finally:
            again.stop()
        written = writer.end()
        with day.client(0, 1) as client:
            assert client.get(f"key-{written - 1}").value == b"value"
