"""A whole group in one process: members, their network and disks, one clock, all oracles."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from node.features import Features
from node.machines.base import ApplyContext, StateMachine
from node.machines.system import RequestKind
from node.peers import BondLoss, Incarnation, Preference
from node.raft.budget import NO_BUDGET, Budget
from node.raft.events import Recover, RemoveMember, TransferLeadership
from node.raft.member import Member
from node.raft.quorum import is_quorum
from node.raft.recovering import PREDECESSOR_LIVES
from node.raft.types import REMOVED, Bootstrap, Founding, Outcome, Role, Settings
from node.simulation.callers import SystemRecorder, callers
from node.simulation.chance import stream
from node.simulation.disk import Disk, SimulatedCredentials
from node.simulation.faults import CALM, Weather
from node.simulation.network import SimulatedNetwork
from node.simulation.operated import Permitted, Successor, are_split, outlasted
from node.simulation.oracles import Oracles
from node.simulation.process import Clock, Process
from node.simulation.recorder import Recorder
from node.simulation.scheduler import Scheduler
from node.simulation.trace import Trace

_ADMIN_TOKENS: Final = 1 << 40  # clients' tokens stay below


_RESTARTED: Final = (REMOVED, PREDECESSOR_LIVES)  # after these the operator starts the node again
AMPLE_BYTES: Final = 1 << 40  # a budget that no simulation uses up


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The properties of a simulated group.

    Attributes:
        names: the nodes that are started at the beginning.
        founders: the nodes that found it together (``expect``); the others join.
        member: the class under test; ablations give a subclass with one rule off.
        features: which feature levels the software of a node knows; level 1 for nodes not in it.
        upgrades: the probability that a reboot gives a node the newest software of the group.
        budgets: the memory budget of a node in bytes; none for nodes not in it.
        recovers: a survivor may found a new generation; ``member`` is a ``Successor`` then.
        jump: by how much the index of such a generation jumps.
        same_identity: a reboot keeps its incarnation although nothing is durable (an ablation).
    """

    names: tuple[str, ...]
    founders: tuple[str, ...]
    machine: Callable[[], StateMachine]
    settings: Settings = field(default_factory=Settings)
    preferences: dict[str, Preference] = field(default_factory=dict)
    bootstrap: Bootstrap = Bootstrap.EXPECT
    expect: int = 0  # how many founders a founder waits for; 0: all of them
    bootstrap_delay_ms: int = 3000
    member: type[Member] = Member
    same_identity: bool = False
    features: dict[str, Features] = field(default_factory=dict)
    upgrades: float = 0.0
    budgets: dict[str, int] = field(default_factory=dict)
    recovers: bool = False
    jump: int = 0


class SimulatedCluster:
    """Builds processes, ends them, and knows which process runs at which place."""

    def __init__(
        self,
        shape: Shape,
        *,
        seed: str,
        oracles: Oracles,
        weather: Weather = CALM,
        traced: bool = False,
        keep: int | None = None,
    ) -> None:
        self.shape = shape
        self.places = shape.names
        self.scheduler = Scheduler()
        self.trace = Trace(self.scheduler, on=traced, keep=keep)
        self.oracles = oracles
        self.network = SimulatedNetwork(
            scheduler=self.scheduler,
            rng=stream(seed, "network"),
            weather=weather,
            trace=self.trace,
        )
        self.group_id = hashlib.sha256(b"simulated group").digest()
        self.boots = 0
        self._seed = seed
        self.rng = stream(seed, "cluster")
        self._processes: dict[str, Process] = {}
        self._alive: list[Process] = []  # replaced, never changed: a loop over it may kill
        self._disks: dict[str, Disk] = {}
        self._features = dict(shape.features)
        self._admin_token = _ADMIN_TOKENS
        self._is_healed = False
        self._wiped: Counter[str] = Counter()  # how often a trusted disk was replaced by an empty one

    # ---- who is there -----------------------------------------------------------
    def alive(self) -> list[Process]:
        """Return the living processes, by place."""
        return self._alive

    def _count_the_living(self) -> None:
        self._alive = [self._processes[place] for place in sorted(self._processes)]

    def process_at(self, place: str) -> Process | None:
        return self._processes.get(place)

    def leader(self) -> Process | None:
        """Return the living leader of the highest term."""
        leaders = [p for p in self.alive() if p.view.role is Role.LEADER]
        return max(leaders, key=lambda process: process.view.term, default=None)

    def events(self) -> int:
        """Return how many events the members have processed until now."""
        return self.scheduler.events

    def can_recover(self, without: Process | None = None) -> bool:
        """Whether the best log of the living members could win: a quorum of each of its configurations lives.

        A volatile voter that died never comes back, so the death of half of them at once rightly stops a
        group. A trust_disk voter comes back. Of two rival clusters, one that has a single member left of two
        voters may wait for its operator without end (``has_enough_copies``): the member that restarted is in
        the other cluster now.
        """
        if not self.oracles.tree.is_rooted:
            # A founder that signed for a collector that died cannot sign again, by design.
            signs = self.shape.bootstrap is Bootstrap.EXPECT
            return not signs or (without is None and self.boots == len(self.places))
        living = [process for process in self.alive() if process is not without]
        if self.shape.settings.trust_disk:
            return any(process.view.configs for process in living)
        incs = {process.inc for process in living}
        best: dict[int, tuple[int, int]] = {}
        verdicts: dict[int, bool] = {}
        members: Counter[int] = Counter()
        copies: dict[int, int] = {}
        for process in living:
            last, view = process.log.last(), process.view
            genesis = self.oracles.tree.genesis[view.nodes[-1]]
            members[genesis] += 1
            if view.configs and (last.term, last.index) > best.get(genesis, (0, 0)):
                best[genesis] = (last.term, last.index)
                active = view.active(view.commit, last.index)
                verdicts[genesis] = all(is_quorum(config, incs) for config in active)
                copies[genesis] = min(
                    2, self.shape.settings.min_voters, *(len(config.voters) for config in active)
                )
        rivals = without is None and len(verdicts) > 1
        if rivals and any(members[genesis] < enough for genesis, enough in copies.items()):
            return False
        return bool(verdicts) and all(verdicts.values())

    def lost_its_quorum(self, known: int) -> bool:
        """Whether the best log of a cluster has a configuration in which the living members cannot decide.

        They are not a quorum of it, or too few copies. That counts only if its entry was among the first
        ``known`` nodes of the tree: its voters died while it was on its way, or before its leader could know.
        A leader must not write such a configuration when no fault is active. In ``auto`` mode, the cluster
        that all others gave way to may be lost with its only member.
        """
        living = self.alive()
        if self.shape.bootstrap is Bootstrap.AUTO and not any(process.log.last().index for process in living):
            return True
        incs = {process.inc for process in living}
        members = Counter(self.oracles.tree.genesis[process.view.nodes[-1]] for process in living)
        best: dict[int, Process] = {}
        for process in living:
            genesis = self.oracles.tree.genesis[process.view.nodes[-1]]
            if genesis not in best or process.log.last()[:2] > best[genesis].log.last()[:2]:
                best[genesis] = process
        for genesis, process in best.items():
            view = process.view
            active = view.active(view.commit, len(view.nodes) - 1)
            for index, config in view.configs:
                if view.nodes[index] >= known or config not in active:
                    continue
                copies = min(2, self.shape.settings.min_voters, len(config.voters))
                if not is_quorum(config, incs) or members[genesis] < copies:
                    return True
        return False

    # ---- life and death -----------------------------------------------------------
    def start(self) -> None:
        """Boot every node."""
        for place in self.places:
            self.boot(place)

    def boot(self, place: str) -> Process | None:
        """Start a new life at ``place``, unless one goes on there."""
        if place in self._processes:
            return None
        return self._boot(place, place.removesuffix("'"))

    def _boot_again(self, place: str) -> None:
        self.boot(place)

    def clone(self, place: str) -> Process | None:
        """Start a second TD with the name of ``place``, at a place of its own."""
        twin = place + "'"
        if twin in self._processes or place.endswith("'") or self.shape.settings.trust_disk:
            return None  # trust_disk is only for hosts that never clone
        return self._boot(twin, place)

    def _boot(self, place: str, name: str) -> Process:
        self.boots += 1
        reborn = place in self._disks
        inc = Incarnation(name, self._identity(place))
        weather = self.network.weather
        drift = self.rng.randint(-weather.drift_ppm, weather.drift_ppm)
        process = Process(
            serial=self.boots,
            place=place,
            inc=inc,
            preference=self.shape.preferences.get(name, Preference.NORMAL),
            clock=Clock(self.scheduler, base_ms=self.rng.randint(0, 1_000_000), drift_ppm=drift),
            scheduler=self.scheduler,
            postman=self.network,
            watcher=self.oracles,
            trace=self.trace,
            on_death=self._died,
        )
        process.late_us = int(weather.late_tick_us * self.rng.random())
        process.gather_us = weather.gather_us
        process.machine = Recorder(self.shape.machine(), self._executed(process))
        arguments: dict[str, Any] = {
            "system": self._system(process),
            "features": self._software(name),
            "budget": Budget(NO_BUDGET if self._is_healed else self.shape.budgets.get(name, NO_BUDGET)),
        }
        if self.shape.settings.trust_disk:
            if place not in self._disks:
                rng = stream(self._seed, f"disk of {place}")
                self._disks[place] = Disk(
                    self.scheduler,
                    rng=rng,
                    fsync_us=weather.fsync_us,
                    partial=weather.partial,
                    full=weather.full,
                )
            process.disk = self._disks[place]
            recovered = arguments["recovered"] = process.disk.recovered() if reborn else None
            self.oracles.counts["restores"] += recovered is not None and recovered.snapshot is not None
        if self.shape.recovers:
            arguments["recovery"] = Permitted()
        process.member = self.shape.member(
            me=inc,
            group_id=self.group_id,
            settings=self.shape.settings,
            founding=self._founding(name),
            preference=process.preference,
            machine=process.machine,
            log=process.log,
            credentials=SimulatedCredentials(inc),
            randrange=stream(self._seed, str(self.boots)).randrange,
            now_ms=process.clock.now_ms(),
            **arguments,
        )
        if isinstance(process.member, Successor):
            process.member.jump = self.shape.jump
        self.trace.note(process.label, f"boots as {inc}")
        self.oracles.born(process)
        self._processes[place] = process
        self._count_the_living()
        process.start()
        self.network.join(process)
        return process

    def _identity(self, place: str) -> bytes:
        """R1: every life has an identity of its own. Only trust_disk, and an ablation, keep it."""
        keeps = self.shape.settings.trust_disk or self.shape.same_identity
        life = "" if keeps else str(self.boots)
        if self._wiped[place]:
            life = f"{life} after {self._wiped[place]}"
        return hashlib.sha256(f"{place}/{life}".encode()).digest()

    def _founding(self, name: str) -> Founding:
        """A founder waits for the others until there is a genesis; with trust_disk or ``auto``, always."""
        shape, founders = self.shape, self.shape.founders
        keeps = shape.settings.trust_disk or shape.bootstrap is Bootstrap.AUTO
        founded = self.oracles.tree.is_rooted and not keeps
        if founded or name not in founders:
            return Founding(bootstrap=Bootstrap.JOIN)
        return Founding(
            bootstrap=shape.bootstrap,
            expect=shape.expect or len(founders),
            bootstrap_delay_ms=shape.bootstrap_delay_ms,
        )

    def _software(self, name: str) -> Features:
        """Return what the software of ``name`` knows in this life; it never becomes older."""
        if self.shape.upgrades and self.boots > len(self.places):
            rng = stream(self._seed, f"software of {self.boots}")
            if rng.random() < self.shape.upgrades:
                self._features[name] = max(self._features.values(), key=lambda known: known.high)
        return self._features.get(name, Features())

    def _executed(self, process: Process) -> Callable[..., None]:
        def executed(*arguments: Any) -> None:
            self.oracles.executed(process, *arguments)

        return executed

    def _system(self, process: Process) -> Callable[[], SystemRecorder]:
        def judged(
            request: RequestKind, credential: bytes | None, value: Any, now_ms: int
        ) -> tuple[int, int]:
            call, position, command = value
            replica = process.member.replica
            index = replica.applied.index + 1
            version = 1 if replica.levels is None else replica.levels.version
            term = process.log.position(index).term
            # A command has the same number within its call and within its entry.
            context = ApplyContext(term, index, position, now_ms, self.group_id, credential, version)
            self.oracles.applied(process, call, position, command, context)
            if request is RequestKind.SYSTEM_COMMAND:
                self.oracles.of_system(process, index)
            return call, index

        def refused(call: int, index: int) -> None:
            self.oracles.refused(process, call, index)

        return lambda: SystemRecorder(callers(), judged, self._executed(process), refused)

    def kill(self, process: Process, loss: BondLoss) -> None:
        """End a life at once. The messages that the process was about to send are not sent."""
        self.trace.note(process.label, "dies")
        del self._processes[process.place]
        self._count_the_living()
        self.network.leave(process, loss)
        process.die()
        self.oracles.died(process)
        if process.disk is not None:
            process.disk.lose_power()

    def _died(self, process: Process) -> None:
        self.kill(process, BondLoss.LOST)
        if process.member.halted == REMOVED and process.disk is not None:
            # Its operator moves the data directory away: what starts there next is another incarnation.
            del self._disks[process.place]
            self._wiped[process.place] += 1
        if process.member.halted in _RESTARTED and self._is_healed and process.place in self.places:
            self.scheduler.after(1, self._boot_again, process.place)

    def transfer(self, target: Process | None) -> None:
        """Request that the leader transfers leadership."""
        leader = self.leader()
        if leader is None:
            return
        self._admin_token += 1
        event = TransferLeadership(self._admin_token, target.inc if target is not None else None)
        leader.ask(self._admin_token, event, lambda _: None)

    def remove(self, place: str, answered: Callable[[Outcome | None], None] = lambda _: None) -> None:
        """Request that the leader removes the member at ``place``, or the dead voter that was there."""
        leader, process = self.leader(), self.process_at(place)
        if leader is None:
            return
        if process is not None:
            found = [process.inc]
        else:
            configs = leader.view.configs[-1:]
            found = [voter for _, config in configs for voter in config.voters if voter.name == place]
        for inc in found:
            self._admin_token += 1
            leader.ask(self._admin_token, RemoveMember(self._admin_token, inc), answered)

    def recover(self, place: str, answered: Callable[[Outcome | None], None] = lambda _: None) -> None:
        """Request that the member at ``place`` founds a new generation from its own state."""
        process = self.process_at(place)
        if process is not None:
            self._admin_token += 1
            request = Recover(self._admin_token, process.log.last())
            process.ask(self._admin_token, request, answered)

    def heal(self) -> None:
        """End all faults: every node runs, reaches every other node and is attested; clones are gone.

        From now on a process that ends because it was removed, or because the cluster before its own lives,
        is started again.
        """
        self._is_healed = True
        for process in self.alive():
            process.tear_after = None
            if process.place not in self.places:
                self.kill(process, BondLoss.LOST)
        for process in outlasted(self.alive()):
            self.kill(process, BondLoss.LOST)
        if are_split(self.alive()):
            self.oracles.is_split = True  # two survivors, each alone: an operator has to choose
        for place in self.places:
            if place not in self._processes:
                self.boot(place)
        for process in self.alive():
            process.member.budget = Budget(AMPLE_BYTES)  # otherwise writes may be refused for good
            process.has_ticket = True
            process.resume()
        for disk in self._disks.values():
            disk.fsync_us, disk.full = CALM.fsync_us, CALM.full
        self.network.weather = CALM
        self.network.heal()

    # ---- time ---------------------------------------------------------------------
    def run_until(self, done: Callable[[], bool], *, deadline_us: int, events_max: int | None = None) -> bool:
        """Let time pass until ``done``. False if the deadline or the number of events came first."""
        scheduler = self.scheduler
        while not done():
            if events_max is not None and scheduler.events >= events_max:
                return False
            if not scheduler.step(deadline_us):
                scheduler.now_us = max(scheduler.now_us, deadline_us)
                return False
        return True
