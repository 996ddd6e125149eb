"""One schedule: drawn from a seed, run, judged.

    report = run(draw_schedule(42))

A schedule is plain data, so a failing one can be shrunk and run again, with a trace.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

from node.features import Features
from node.peers import Preference
from node.raft.member import Member
from node.raft.types import Answer, Bootstrap, Ok, Role, Settings
from node.simulation.chance import stream
from node.simulation.clients import Ask, Fate, Habits, SimulatedCall, SimulatedClients, draw_habits
from node.simulation.cluster import Shape, SimulatedCluster
from node.simulation.errors import InvariantError
from node.simulation.faults import Fault, Plan, Weather, draw_recoveries, draw_weather
from node.simulation.nemesis import Nemesis
from node.simulation.operated import Successor, check_generations
from node.simulation.oracles import Oracles
from node.simulation.process import Process
from node.simulation.rarities import draw_rarities
from node.simulation.scheduler import MS_US, SECOND_US
from node.simulation.verdict import judge_run
from node.simulation.workload import REGISTERS, SYNCED_REGISTERS, Workload

EVENTS: Final = 600
_PLAN_US: Final = 60 * SECOND_US
_HEAL_US: Final = 120 * SECOND_US
_NEWS_US: Final = 40 * SECOND_US  # by then all messages have arrived, and all deaths are known
_HEAL_EVENTS: Final = 50_000  # healing takes about a thousand; a livelock would never end
TRACE_TAIL: Final = 60
# Refusals that a healed group may still return: limits are small, and clients that gave up left much behind;
# or a member has just pulled old entries, and does not know the present time of the log.
_SYNCED: Final = 0.25  # the share of runs whose members catch up by the state sync of a user
_RECOVERED: Final = 0.05  # the share of runs in which a survivor recovers
_TRY_AGAIN: Final = frozenset(("overloaded", "stale"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """All that decides a run, except the randomness of messages and clients, which the seed decides.

    ``plan``: the faults in the order of their times. It can be iterated repeatedly.
    """

    seed: str
    shape: Shape
    weather: Weather
    habits: Habits
    plan: Iterable[Fault]
    workload: Workload
    merciful: bool = True
    events: int = EVENTS
    rules: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The results of a run. ``healed``: it had to converge after the faults, and did; False: it could not."""

    seed: str
    events: int
    messages: int
    reboots: int
    faults: int
    healed: bool
    counts: dict[str, int]
    digest: str


class ScheduleError(Exception):
    """A schedule contradicted an oracle. ``tail``: the last lines of its trace, if it was traced.

    The plan of its ``schedule`` has the faults that happened in the run, as a tuple.
    """

    def __init__(self, schedule: Schedule, error: InvariantError, tail: tuple[str, ...]) -> None:
        super().__init__(f"seed {schedule.seed}: {error}")
        self.schedule = schedule
        self.error = error
        self.tail = tail


def draw_settings(rng: Random) -> Settings:
    """Draw the consensus settings of one run. Times are short, so that much happens within 600 events."""
    heartbeat_ms = rng.choice((50, 150, 300))
    election_ms = rng.choice((4, 6, 10)) * heartbeat_ms
    return Settings(
        heartbeat_ms=heartbeat_ms,
        election_timeout_ms=election_ms,
        election_jitter_ms=rng.choice((election_ms // 4, election_ms)),
        demote_after_ms=rng.choice((1, 2, 5)) * election_ms,
        demote_lag_ms=rng.choice((2, 5)) * election_ms,
        min_voters=rng.choice((1, 2, 2, 3)),
        max_voters=rng.choice((3, 7, 7)),
        tie_break=rng.random() < 0.7,
        trust_disk=rng.random() < 0.2,
        lease_reads=rng.random() < 0.3,
        session_ttl_ms=3_600_000,
    )


def draw_schedule(
    seed: int | str,
    *,
    workload: Workload = REGISTERS,
    member: type[Member] = Member,
    events: int = EVENTS,
    rules: bool = True,
    **overrides: Any,
) -> Schedule:
    """Draw a schedule. ``overrides`` are fields of ``Shape`` or of ``Settings`` to keep as given."""
    if workload is REGISTERS and stream(str(seed), "state sync").random() < _SYNCED:
        workload = SYNCED_REGISTERS
    rng = stream(str(seed), "schedule")
    count = rng.choices((2, 3, 4, 5), (1, 5, 3, 3))[0]
    size = stream(str(seed), "size")
    if size.random() < 0.06:
        count = size.choice((7, 9))
    names = tuple("abcdefghi"[:count])
    founders = names[: rng.randint(max(1, count - 1), count)]
    preferences = {}
    for name in names[1:]:
        if rng.random() < 0.06:
            # An observer never founds a group.
            shy = name in founders or rng.random() < 0.3
            preferences[name] = Preference.RELUCTANT if shy else Preference.OBSERVER
    rare = draw_rarities(stream(str(seed), "rarities"), draw_settings(rng), names)
    settings = _draw_snapshots(stream(str(seed), "snapshots"), rare.settings)
    settings = _draw_patience(stream(str(seed), "patience"), settings)
    pace_us = settings.election_timeout_ms * MS_US
    full = _draw_full(stream(str(seed), "full disks"))
    weather = replace(draw_weather(rng, pace_us=pace_us), full=full, **rare.weather)
    shape = Shape(
        names=names,
        founders=founders,
        bootstrap=Bootstrap.INIT if len(founders) == 1 else Bootstrap.EXPECT,
        settings=replace(settings, **{k: v for k, v in overrides.items() if hasattr(settings, k)}),
        preferences=preferences,
        machine=workload.machine,
        member=member,
    )
    shape = replace(shape, budgets=_draw_budgets(stream(str(seed), "budgets"), names))
    software = _draw_software(stream(str(seed), "software"), shape.settings, names)
    if shape.bootstrap is Bootstrap.EXPECT and not (rare.shape.keys() & {"bootstrap", "expect"}):
        shape = replace(shape, **software)
    callers = stream(str(seed), "habits of callers")
    habits = replace(draw_habits(rng), callers=0.5 if callers.random() < 0.25 else 0.0)
    changes = rare.shape | {k: v for k, v in overrides.items() if hasattr(shape, k)}
    shape = replace(shape, **changes)
    shape = replace(shape, expect=min(shape.expect, len(shape.founders)))
    drawn = Schedule(
        seed=str(seed),
        shape=shape,
        weather=weather,
        habits=habits,
        plan=Plan(seed=str(seed), places=names, pace_us=pace_us, length_us=_PLAN_US, rare=rare.plan),
        merciful=rng.random() < 0.8,
        workload=workload,
        events=events,
        rules=rules,
    )
    return _with_recoveries(drawn, rare.plan)


def _draw_full(rng: Random) -> float:
    return rng.random() if rng.random() < 0.3 else 0.0


def _with_recoveries(schedule: Schedule, rare: tuple[Fault, ...]) -> Schedule:
    """Permit recoveries by a survivor in some runs, and draw when an operator wants one."""
    rng, shape = stream(schedule.seed, "recovery"), schedule.shape
    if rng.random() >= _RECOVERED and not shape.recovers:
        return schedule
    pace_us = shape.settings.election_timeout_ms * MS_US
    member = Successor if shape.member is Member else type("Survivor", (Successor, shape.member), {})
    shape = replace(shape, recovers=True, jump=rng.choice((0, 1, 40)), member=member)
    rare += draw_recoveries(rng, shape.names, pace_us=pace_us)
    plan = Plan(seed=schedule.seed, places=shape.names, pace_us=pace_us, length_us=_PLAN_US, rare=rare)
    # A survivor waits long before it may.
    return replace(schedule, shape=shape, plan=plan, events=3 * schedule.events)


def _draw_patience(rng: Random, settings: Settings) -> Settings:
    """Draw how long the third voter may be silent: in most runs not longer than any other."""
    return replace(
        settings, demote_to_two_after_ms=rng.choice((0, 0, 0, 3 * settings.demote_after_ms, 60_000))
    )


def _draw_snapshots(rng: Random, settings: Settings) -> Settings:
    """Draw when snapshots are due, and how much of the log stays behind them. Half of the runs have none."""
    if rng.random() < 0.5:
        return settings
    election_ms = settings.election_timeout_ms
    return replace(
        settings,
        snapshot_bytes=rng.choice((1, 600, 3_000)),
        snapshot_ms=rng.choice((4, 100)) * election_ms,
        snapshot_chunk_bytes=rng.choice((40, 200, 131_072)),
        log_keep_bytes=rng.choice((0, 0, 800)),
        log_keep_ms=rng.choice((0, 1, 20)) * election_ms,
    )


def _draw_budgets(rng: Random, names: tuple[str, ...]) -> dict[str, int]:
    """Draw the memory budgets, some of them so small that a run reaches them. Most runs have none."""
    if rng.random() >= 0.2:
        return {}
    return {name: rng.choice((10_000, 16_000, 60_000)) for name in names if rng.random() < 0.7}


def _draw_software(rng: Random, settings: Settings, names: tuple[str, ...]) -> dict[str, Any]:
    """Draw the feature levels that the software of each node knows. In most runs it is level 1 alone."""
    if rng.random() >= 0.25:
        return {}
    after_ms = rng.choice((0, 1, 4)) * settings.election_timeout_ms
    high = {name: rng.choice((1, 2, 3)) for name in names}
    if rng.random() < 0.7:
        # One node keeps the level down, until it restarts with newer software or was away for long enough.
        high = dict.fromkeys(names, rng.choice((2, 3))) | {rng.choice(names): 1}
    features = {name: Features(1, known, after_ms) for name, known in high.items()}
    return {"features": features, "upgrades": rng.choice((0.0, 1.0, 1.0))}


class Simulation:
    """One run of one schedule."""

    def __init__(self, schedule: Schedule, *, traced: bool = False, keep: int | None = None) -> None:
        self.schedule = schedule
        settings = schedule.shape.settings
        self.oracles = Oracles(
            min_voters=settings.min_voters,
            session_ttl_ms=settings.session_ttl_ms,
            rules=schedule.rules,
            rivals=schedule.shape.bootstrap is Bootstrap.AUTO,
            discards=settings.on_rival == "discard-shorter",
        )
        self.cluster = SimulatedCluster(
            schedule.shape,
            seed=schedule.seed,
            oracles=self.oracles,
            weather=schedule.weather,
            traced=traced,
            keep=keep,
        )
        self.clients = SimulatedClients(
            scheduler=self.cluster.scheduler,
            rng=stream(schedule.seed, "clients"),
            callers=stream(schedule.seed, "callers"),
            workload=schedule.workload,
            habits=schedule.habits,
            alive=self.cluster.alive,
            judge=self.oracles.judge,
            floors=self.oracles.floors,
            trace=self.cluster.trace,
        )
        self.nemesis = Nemesis(
            scheduler=self.cluster.scheduler,
            network=self.cluster.network,
            targets=self.cluster,
            merciful=schedule.merciful,
            trace=self.cluster.trace,
        )

    def run(self) -> Report:
        """Run the schedule and return the results.

        Raises:
            ScheduleError: an oracle was contradicted.
        """
        try:
            self._trouble()
            healed = self._heal()
            judge_run(self.oracles, self.clients.calls, self.schedule.workload)
        except InvariantError as exc:
            tail = tuple(self.cluster.trace.lines)[-TRACE_TAIL:]
            fell = replace(self.schedule, plan=tuple(self.nemesis.fallen))
            raise ScheduleError(fell, exc, tail) from exc
        return self._report(healed=healed)

    def _report(self, *, healed: bool) -> Report:
        cluster = self.cluster
        return Report(
            seed=self.schedule.seed,
            events=cluster.events(),
            messages=cluster.network.sent,
            reboots=cluster.boots - len(cluster.places),
            faults=len(self.nemesis.fallen),
            healed=healed,
            counts=dict(self.oracles.counts),
            digest=cluster.trace.digest(),
        )

    def _trouble(self) -> None:
        cluster = self.cluster
        cluster.start()
        self.clients.start()
        self.nemesis.start(self.schedule.plan)
        cluster.run_until(lambda: False, deadline_us=_PLAN_US, events_max=self.schedule.events)

    # ---- healing ------------------------------------------------------------------
    def _heal(self) -> bool:
        """End all faults, and require that the group becomes healthy if it still can."""
        cluster = self.cluster
        self.nemesis.stop()
        self.clients.calm_down()
        self._check_states()
        cluster.trace.note("nemesis", "heals")
        cluster.heal()
        if not cluster.can_recover():
            return False
        deadline_us = cluster.scheduler.now_us + _HEAL_US
        self._settles(cluster.scheduler.now_us + _NEWS_US)
        known = len(self.oracles.tree.entries)
        try:
            self._require_health(deadline_us)
        except InvariantError as exc:
            if exc.oracle == "liveness" and (cluster.lost_its_quorum(known) or self.oracles.is_split):
                return False
            raise
        self._check_states()
        return True

    def _require_health(self, deadline_us: int) -> None:
        """Require one leader that all follow, and that every member executes a write and a strong read."""
        self._require_settled(deadline_us)
        for process in self._members():
            self._probe(process, deadline_us)
        self._require_settled(deadline_us)

    def _require_settled(self, deadline_us: int) -> None:
        if not self._settles(deadline_us):
            check_generations(self.cluster.alive())
            raise InvariantError("liveness", self._why_not())

    def _settles(self, deadline_us: int) -> bool:
        events_max = self.cluster.events() + _HEAL_EVENTS
        return self.cluster.run_until(self._has_settled, deadline_us=deadline_us, events_max=events_max)

    def _has_settled(self) -> bool:
        """Whether one cluster is left, or only clusters that may never merge, all complete. No node waits."""
        clusters = self._clusters()
        if len(clusters) != 1 and not self._are_rivals(clusters):
            return False
        if self.clients.open_calls() or not all(map(self._is_settled, clusters)):
            return False
        # A rival whose members joined the other cluster keeps dead voters if it has its least size already.
        return len(clusters) > 1 or self._membership_settled(clusters[0])

    def _members(self) -> list[Process]:
        """Return the living processes that know the group's feature level. No member bonds with others."""
        alive = self.cluster.alive()
        level = max((self.oracles.tree.levels[process.view.nodes[-1]] for process in alive), default=1)
        return [process for process in alive if process.member.build.features.high >= level]

    def _clusters(self) -> list[list[Process]]:
        """Return the living processes, by cluster."""
        genesis = self.oracles.tree.genesis
        clusters: dict[int, list[Process]] = {}
        for process in self._members():
            clusters.setdefault(genesis[process.view.nodes[-1]], []).append(process)
        return list(clusters.values())

    def _are_rivals(self, clusters: list[list[Process]]) -> bool:
        """Whether each cluster holds commands, refused ones included, and no cluster may discard them."""
        shape = self.schedule.shape
        may_discard = shape.settings.on_rival == "discard-shorter"
        if shape.bootstrap is not Bootstrap.AUTO or may_discard:
            return False
        return all(any(process.member.replica.commands for process in members) for members in clusters)

    def _is_settled(self, processes: list[Process]) -> bool:
        """Whether all follow one leader and have equal commit indices."""
        leaders = [process for process in processes if process.view.role is Role.LEADER]
        if len(leaders) != 1:
            return False
        if any(process.member.tenure.removed_ms is not None for process in processes):
            return False  # it goes on for a while, and then ends
        view = leaders[0].view
        if view.commit + 1 != len(view.nodes):
            return False
        known = min(process.member.build.features.high for process in processes)
        if self.oracles.tree.levels[view.nodes[-1]] != known:
            return False  # U9: the level that all know will be written soon
        return all(p.view.nodes == view.nodes and p.view.commit == view.commit for p in processes)

    def _membership_settled(self, processes: list[Process]) -> bool:
        """Whether the configuration holds all living processes and no dead ones.

        A dead voter whose node runs software that does not know the group's level keeps its place while the
        group has its least size: no other member is there to replace it, until the operator upgrades that
        node.
        """
        settings = self.schedule.shape.settings
        voters = set(processes[0].view.configs[-1][1].voters)
        living = {process.inc for process in processes}
        able = {process.inc for process in processes if process.preference is not Preference.OBSERVER}
        if not voters <= living and len(processes) < len(self.cluster.alive()):
            return able <= voters and len(voters) <= settings.min_voters
        return voters <= living and len(voters) >= min(len(able), settings.max_voters)

    def _probe(self, process: Process, deadline_us: int) -> None:
        """Require that ``process`` executes a write and a strong read now."""
        rng = stream(self.schedule.seed, "probe")
        for ask in (Ask.WRITE, Ask.STRONG):
            call = self._ask(process, ask, rng, deadline_us)
            while self._may_succeed_later(call):
                self.cluster.run_until(
                    lambda: False, deadline_us=min(deadline_us, self.cluster.scheduler.now_us + SECOND_US)
                )
                if self.cluster.scheduler.now_us >= deadline_us:
                    break
                call = self._ask(process, ask, rng, deadline_us)
            if not isinstance(call.outcome, Ok | Answer):
                why = call.refusal.reason if call.refusal is not None else "no answer"
                raise InvariantError("liveness", f"healed {process}: {ask.value} {call.fate.value} ({why})")

    def _may_succeed_later(self, call: SimulatedCall) -> bool:
        if (
            call.fate is Fate.UNKNOWN
        ):  # refused for memory as the second copy: the leader may not know of more
            return bool(self.schedule.shape.budgets)
        return call.refusal is not None and call.refusal.reason in _TRY_AGAIN

    def _ask(self, process: Process, ask: Ask, rng: Random, deadline_us: int) -> SimulatedCall:
        number = len(self.clients.calls) + 1
        call = SimulatedCall(number=number, client=99, ask=ask)
        if ask is Ask.WRITE:
            call.commands = self.schedule.workload.command(rng, number)
        else:
            call.query = self.schedule.workload.query(rng)
        self.clients.submit(call, at=process)
        self.cluster.run_until(lambda: call.fate is not Fate.OPEN, deadline_us=deadline_us)
        return call

    def _why_not(self) -> str:
        lines = ["the healed group does not settle:"]
        for process in self.cluster.alive():
            view = process.view
            voters = ",".join(map(str, view.configs[-1][1].voters)) if view.configs else "none"
            lines.append(
                f"  {process} {view.role.value} term {view.term} commit {view.commit}"
                f" last {len(view.nodes) - 1} voters {voters}"
            )
        lines += [f"  open: {call.name} {call.ask.value}" for call in self.clients.open_calls()]
        return "\n".join(lines)

    def _check_states(self) -> None:
        """Require that equal logs gave equal states and equal tables of sessions."""
        reached: dict[int, tuple[Process, object, bytes, bytes]] = {}
        for process in self.cluster.alive():
            replica = process.member.replica
            node = process.view.nodes[replica.applied.index]
            state, sessions = process.machine.snapshot(), replica.table.snapshot_digest()
            system = replica.system.digest()
            first = reached.setdefault(node, (process, state, sessions, system))
            if first[1:] != (state, sessions, system):
                raise InvariantError("equal-states", f"{first[0]} and {process} differ")


def run(schedule: Schedule, *, traced: bool = False, keep: int | None = None) -> Report:
    """Run one schedule.

    Raises:
        ScheduleError: an oracle was contradicted.
    """
    return Simulation(schedule, traced=traced, keep=keep).run()
