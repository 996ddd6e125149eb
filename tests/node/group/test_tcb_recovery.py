"""The day of a TCB recovery: every member is out of date at once, and the group goes on.

Real networks on loopback, real bonds, mock TDs, the real verifier.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from attestation.collateral.endorsements import Endorsements
from attestation.collateral.freshness import FreshnessState
from attestation.tickets.ids import network_id_of_name
from attestation.tickets.standing import MemberTable, Moment
from attestation.tickets.tdx import TdxValidator
from attestation.values import TcbStatus
from enclave.identity import Identity
from enclave.issuer import TdxTicketIssuer
from enclave.mock.authority import MockAuthority
from enclave.mock.statement import PLATFORM_OUT_OF_DATE, PLATFORM_UP_TO_DATE, Statement
from node.group.errors import NotExecutedError, OutcomeUnknownError
from node.group.group import Group
from node.group.network import Network
from node.machines.system import CombinedSystem
from node.raft.types import Consistency
from node.system.tcb import TcbState, tcb_of
from node.tcb_recovery import GroupEnforcement, RecoveryWatch
from tests.support.bonds import Clock
from tests.support.groups import GET, INIT, JOIN, NAME, PATIENCE_S, Site, add, counter, until_voters, within
from tests.support.tickets import FIRMWARE, REGISTERS, policy

RECOVERY = Statement(
    platform_levels=(
        replace(PLATFORM_UP_TO_DATE, sgx_svns=(8,) * 8 + (0,) * 8, date=datetime(2026, 8, 12, tzinfo=UTC)),
        replace(PLATFORM_UP_TO_DATE, status=TcbStatus.OUT_OF_DATE, advisory_ids=("MOCK-SA-01192",)),
        PLATFORM_OUT_OF_DATE,
    ),
    tcb_evaluation_data_number=21,
    qe_evaluation_data_number=21,
)


@dataclass
class Source:
    """What a member's collateral client holds."""

    authority: MockAuthority
    statement: Statement = field(default_factory=Statement)

    def endorsements_for(self, _quote: Any, now: datetime) -> Endorsements:
        return self.authority.endorsements(now, self.statement)


@dataclass
class Member:
    """One life of a node on the platform that all share."""

    network: Network
    group: Group
    source: Source
    table: MemberTable
    enforcement: GroupEnforcement
    clock: Clock
    validator: TdxValidator
    ahead: timedelta = timedelta(0)

    def moment(self) -> Moment:
        return Moment(
            wall=datetime.now(UTC) + self.clock.shift + self.ahead,
            monotonic_s=time.monotonic(),
            log=self.group.log_time,
        )


class Day:
    """A site of members on one platform, and a client that writes all the while."""

    def __init__(self, site: Site, *, standing: bool = True, grace_days: int = 0) -> None:
        self.site = site
        self.authority = MockAuthority.create(datetime.now(UTC))
        self.members: list[Member] = []
        self.ahead = timedelta(0)
        self.watching: list[asyncio.Task[None]] = []
        self.rules = policy(
            tcb__standing_days=14 if standing else 0, tcb__grace_period=timedelta(days=grace_days)
        )

    async def start(
        self,
        name: str,
        statement: Statement | None = None,
        *,
        firmware: bytes = FIRMWARE,
        freshness: FreshnessState | None = None,
    ) -> Member:
        now = datetime.now(UTC)
        identity = Identity.generate(name, now)
        source = Source(self.authority, statement or Statement())
        issuer = TdxTicketIssuer(
            attester=self.authority.create_td(mrtd=firmware, rtmrs=REGISTERS),
            identity=identity,
            network_id=network_id_of_name(NAME),
            endorsements_source=source,
            started_at=now,
            lifetime=timedelta(hours=1),
        )
        others = [member.network for member in self.members]
        clock = Clock(shift=self.ahead)
        network = await self.site.network(name, *others, identity=identity, issuers=[issuer], clock=clock)
        made: list[Member] = []
        enforcement = GroupEnforcement(
            now=lambda: clock.environment().now(), group=lambda: made[0].group if made else None
        )
        table = MemberTable(
            period=timedelta(days=self.rules.tcb.standing_days), moment=lambda: made[0].moment()
        )
        validator = TdxValidator(
            policy=self.rules,
            root=self.authority.trust_root,
            endorsements_source=source,
            freshness=freshness,
            members=table,
            enforcement=enforcement,
            saw=enforcement.saw,
            witnesses=[table.witness],
        )
        founding = JOIN if self.members else INIT
        builder = counter(network, founding).with_system_state(lambda: CombinedSystem(TcbState()))
        group = builder.require_ticket(validator).join()
        made.append(Member(network, group, source, table, enforcement, clock, validator))
        watch = RecoveryWatch(enforcement, group=lambda: group, sleep=lambda _: asyncio.sleep(0.02))
        self.watching.append(asyncio.create_task(watch.run()))
        if not self.members:
            await within(group.when().is_leader())
        self.members.append(made[0])
        return made[0]

    async def found(self) -> None:
        for name in "abc":
            await self.start(name)
        await until_voters([member.group for member in self.members], 3)

    def recover(self) -> None:
        """Every member's collateral client fetches the new set, and has all bonds judged again."""
        for member in self.members:
            member.source.statement = RECOVERY
        for member in self.members:
            member.group.rejudge()

    def pass_days(self, days: int) -> None:
        """Have every host's wall clock go on, and all bonds judged again."""
        self.ahead += timedelta(days=days)
        for member in self.members:
            member.clock.shift = self.ahead
        for member in self.members:
            member.group.rejudge()

    def verdicts(self) -> set[str]:
        return {bond.appraisals["tdx"]["verdict"] for member in self.members for bond in member.group.bonds}

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                for task in self.watching:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.02)

    async def write(self, number: int) -> None:
        """Write once, under a key, on whichever member takes it: with retries, as a client does."""
        key = number.to_bytes(16, "big")
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for member in self.members:
                    try:
                        await member.group.execute(add(1), key=key, timeout_s=1)
                    except (NotExecutedError, OutcomeUnknownError):
                        continue
                    return
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[list[int]]:
        """Write one after the other meanwhile; every write succeeds, or this fails."""
        written: list[int] = []

        async def go_on() -> None:
            while True:
                await self.write(len(written))
                written.append(len(written))

        task = asyncio.create_task(go_on())
        try:
            yield written
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def test_every_write_succeeds_on_the_day_of_a_tcb_recovery() -> None:
    async def scenario() -> None:
        async with Site() as site:
            day = Day(site)
            await day.found()
            async with day.writing() as written:
                await day.until(lambda: len(written) >= 5)
                day.recover()
                await day.until(lambda: day.verdicts() == {"standing"})
                before = len(written)
                await day.until(lambda: len(written) >= before + 20)
                a, b, c = day.members
                assert [len(member.group.bonds) for member in day.members] == [2, 2, 2]

                # A lost bond forms again, although both are out of date.
                formed = len([e for e in b.network.audit.events(limit=1000) if e["kind"] == "bond-admitted"])
                b.group._bonds.close_bond(c.group.me, 30403, "test")
                await day.until(
                    lambda: (
                        len([e for e in b.network.audit.events(limit=1000) if e["kind"] == "bond-admitted"])
                        > formed
                        and len(b.group.bonds) == 2
                    )
                )

                # A stranger on the same platform is refused by all, and nothing else changes.
                stranger = await day.start("d", RECOVERY)
                day.members.remove(stranger)
                await day.until(lambda: len(refusals(stranger)) >= 3)
                assert stranger.group.bonds == []
                assert set(refusals(stranger)) <= {"tcb-status-not-accepted"}
                before = len(written)
                await day.until(lambda: len(written) >= before + 20)
            for number in range(len(written) + 1):
                await day.write(number)  # the one that was on its way too; under a key, none counts twice
            answer = await a.group.query(GET, Consistency.STRONG)
            assert answer.value == {"value": len(written) + 1}

    asyncio.run(scenario())


def refusals(member: Member) -> list[str]:
    return [
        event["reason"]
        for event in member.network.audit.events(limit=1000)
        if event["kind"] in {"bond-refused", "bond-refused-by-peer"}
        and event["reason"] not in {"already-bonded", "replaced"}
    ]


def test_a_member_that_restarts_on_that_day_is_a_stranger() -> None:
    async def scenario() -> None:
        async with Site() as site:
            day = Day(site)
            await day.found()
            day.recover()
            await day.until(lambda: day.verdicts() == {"standing"})
            ended = day.members.pop()
            await ended.network.close()
            again = await day.start("c", RECOVERY)
            day.members.remove(again)
            await day.until(lambda: len(refusals(again)) >= 2)

            assert again.group.bonds == []
            await day.write(0)

    asyncio.run(scenario())


def test_without_standing_members_the_group_stops_on_that_day() -> None:
    async def scenario() -> None:
        async with Site() as site:
            day = Day(site, standing=False)
            await day.found()
            day.recover()
            await day.until(lambda: not any(member.group.bonds for member in day.members))

            with pytest.raises((NotExecutedError, OutcomeUnknownError)):
                await day.members[0].group.execute(add(1), timeout_s=1)

    asyncio.run(scenario())


def test_the_bonds_of_standing_members_end_with_their_days() -> None:
    async def scenario() -> None:
        async with Site() as site:
            day = Day(site)
            await day.found()
            day.recover()
            await day.until(lambda: day.verdicts() == {"standing"})
            for member in day.members:
                member.ahead = timedelta(days=14)  # the table's clock alone: their tickets are young
            for member in day.members:
                member.group.rejudge()
            await day.until(lambda: not any(member.group.bonds for member in day.members))

            ended = [
                event["reason"]
                for member in day.members
                for event in member.network.audit.events(limit=1000)
                if event["kind"] == "ticket-rejected"
            ]
            assert set(ended) == {"tcb-status-not-accepted"}

    asyncio.run(scenario())


def test_a_refused_peer_with_a_newer_set_and_two_restarts_leave_the_group_its_quorum() -> None:
    """Each member keeps what collateral it has seen; of the refused peer's set it has seen nothing."""

    async def scenario() -> None:
        async with Site() as site:
            day = Day(site)
            await day.found()
            rogue = await day.start("rogue", RECOVERY, firmware=b"\x78" * 48)
            day.members.remove(rogue)
            await day.until(lambda: refusals(rogue).count("measurement-mismatch") >= 3)
            assert rogue.group.bonds == []

            for _ in range(2):
                ended = day.members.pop()
                kept = ended.validator.freshness.to_bytes()
                assert {floor.tcb_info_number for floor in ended.validator.freshness.floors.values()} == {20}
                await ended.network.close()
                await day.start(ended.group.me.name, freshness=FreshnessState.from_bytes_untrusted(kept))
                await until_voters([member.group for member in day.members], 3)
                day.members.insert(0, day.members.pop())
                await day.write(len(site.networks))
            assert day.verdicts() == {"accepted"}

    asyncio.run(scenario())


# ---- the grace period, counted from a replicated first sight ----------------------------------------


def sights(member: Member) -> dict[int, datetime]:
    return {sight.seen.number: sight.at for sight in tcb_of(member.group.system).sights}


def ends(day: Day) -> set[Any]:
    return {
        bond.appraisals["tdx"]["policy"]["grace_until"]
        for member in day.members
        for bond in member.group.bonds
    }


async def in_grace(day: Day) -> datetime:
    """Found a group, let the recovery come, and return when the group has first seen the new set."""
    await day.found()
    day.recover()
    await day.until(lambda: all(21 in sights(member) for member in day.members))
    (first,) = {sights(member)[21] for member in day.members}
    until = (first + timedelta(days=10)).replace(microsecond=0)
    await day.until(lambda: ends(day) == {f"{until:%Y-%m-%dT%H:%M:%SZ}"})
    return first


def test_all_members_count_the_grace_from_one_entry_of_the_log() -> None:
    async def scenario() -> None:
        async with Site() as site:
            day = Day(site, standing=False, grace_days=10)
            first = await in_grace(day)
            assert abs(first - datetime.now(UTC)) < timedelta(minutes=5)
            assert [len(member.group.bonds) for member in day.members] == [2, 2, 2]
            await day.write(0)

    asyncio.run(scenario())


def test_a_node_that_lost_its_disk_during_the_grace_counts_from_the_groups_first_sight() -> None:
    """Its own first sight is days later; once it has caught up, it goes by the log like everybody else."""

    async def scenario() -> None:
        async with Site() as site:
            day = Day(site, standing=False, grace_days=10)
            first = await in_grace(day)
            day.pass_days(5)
            ended = day.members.pop()
            await ended.network.close()
            again = await day.start("c", RECOVERY)
            await day.until(lambda: sights(again) == {20: sights(day.members[0])[20], 21: first})
            until = (first + timedelta(days=10)).replace(microsecond=0)
            await day.until(lambda: len(again.group.bonds) == 2)
            await day.until(lambda: ends(day) == {f"{until:%Y-%m-%dT%H:%M:%SZ}"})

            day.pass_days(5)
            await day.until(lambda: not any(member.group.bonds for member in day.members))

    asyncio.run(scenario())


def test_a_node_that_lost_its_disk_after_the_grace_is_admitted_nowhere_and_admits_no_peer_for_longer() -> (
    None
):
    async def scenario() -> None:
        async with Site() as site:
            day = Day(site, grace_days=10)  # members stand, so that there still is a group
            await in_grace(day)
            day.pass_days(11)
            await day.until(lambda: day.verdicts() == {"standing"})
            ended = day.members.pop()
            await ended.network.close()
            again = await day.start("c", RECOVERY)
            day.members.remove(again)
            await day.until(lambda: len(refusals(again)) >= 2)

            assert again.group.bonds == []
            assert set(refusals(again)) == {"tcb-status-not-accepted"}
            await day.write(0)

    asyncio.run(scenario())
