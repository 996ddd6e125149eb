"""Carries out the plan: each fault at its time, against the processes that live then."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from node.peers import BondLoss
from node.simulation.faults import LEADER, Blow, Fault
from node.simulation.network import SimulatedNetwork
from node.simulation.process import Process
from node.simulation.scheduler import SECOND_US, Scheduler
from node.simulation.trace import Trace


class Targets(Protocol):
    """The cluster as the nemesis sees it."""

    places: tuple[str, ...]

    def process_at(self, place: str) -> Process | None: ...
    def leader(self) -> Process | None: ...
    def alive(self) -> list[Process]: ...
    def kill(self, process: Process, loss: BondLoss) -> None: ...
    def boot(self, place: str) -> Process | None: ...
    def clone(self, place: str) -> Process | None: ...
    def transfer(self, target: Process | None) -> None: ...
    def remove(self, place: str) -> None: ...
    def recover(self, place: str) -> None: ...
    def can_recover(self, without: Process | None = None) -> bool: ...


class Nemesis:
    """Carries out a plan's faults.

    After ``stop`` no new one begins; ``SimulatedCluster.heal`` undoes lasting ones.

    A merciful nemesis kills no process that the group needs to have a leader again: volatile voters do not
    come back, and a run that is dead by its tenth event shows little.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        network: SimulatedNetwork,
        targets: Targets,
        merciful: bool,
        trace: Trace,
    ) -> None:
        self.fallen: list[Fault] = []
        self._coming: Iterator[Fault] = iter(())
        self._scheduler = scheduler
        self._network = network
        self._targets = targets
        self._trace = trace
        self._merciful = merciful
        self._stopped = False

    def start(self, plan: Iterable[Fault]) -> None:
        """Carry out every fault at its time. The plan yields them in the order of their times."""
        self._coming = iter(plan)
        self._await_next()

    def _await_next(self) -> None:
        fault = next(self._coming, None)
        if fault is not None:
            self._scheduler.at(fault.at_us, self._fall, fault)

    def stop(self) -> None:
        """Stop all further faults, and all delayed consequences of earlier ones."""
        self._stopped = True

    def _later(self, span_us: int, action: object, *arguments: object) -> None:
        def unless_stopped() -> None:
            if not self._stopped:
                action(*arguments)  # type: ignore[operator]

        self._scheduler.after(span_us, unless_stopped)

    def _fall(self, fault: Fault) -> None:
        if self._stopped:
            return
        self._await_next()
        if self._trace.on:
            self._trace.note("nemesis", str(fault))
        self.fallen.append(fault)
        match fault.blow:
            case Blow.ISOLATE | Blow.DEAFEN | Blow.MUTE | Blow.SPLIT | Blow.BRIDGE | Blow.CUT:
                self._cut(fault)
            case Blow.CLOG | Blow.FLAP:
                self._link(fault)
            case Blow.TRANSFER:
                self._targets.transfer(self._find(fault.targets[0]) if fault.targets else None)
            case Blow.REMOVE | Blow.RECOVER:
                self._operate(fault)
            case Blow.CLONE:
                self._clone(fault)
            case Blow.LAPSE:
                for process in self._targets.alive():
                    if process.alive:  # a torn write may have killed it while the others lost their bonds
                        self._expire(process, fault.span_us)
            case Blow.OUTAGE:
                self._network.outages += 1
                self._later(fault.span_us, self._end_outage)
            case _:
                self._strike(fault)

    def _find(self, target: str) -> Process | None:
        if target == LEADER:
            return self._targets.leader()
        return self._targets.process_at(target)

    # ---- one process ------------------------------------------------------------
    def _strike(self, fault: Fault) -> None:
        process = self._find(fault.targets[0])
        if process is None:
            return
        deadly = fault.blow in (Blow.CRASH, Blow.LEAVE, Blow.TEAR)
        if deadly and self._merciful and not self._targets.can_recover(without=process):
            return
        match fault.blow:
            case Blow.CRASH:
                self._targets.kill(process, BondLoss.LOST)
                self._reboot(process.place, fault.span_us)
            case Blow.LEAVE:
                self._targets.kill(process, BondLoss.DEPARTED)
                self._reboot(process.place, fault.span_us)
            case Blow.TEAR:
                process.tear_after = fault.amount
                self._reboot(process.place, fault.span_us)
            case Blow.STALL:
                process.stall()
                self._network.starve(process)
                self._later(fault.span_us, process.resume)
            case Blow.EXPIRE:
                self._expire(process, fault.span_us)
            case Blow.JUMP:
                process.clock.wall_skew_ms += fault.amount
            case _:
                raise AssertionError(fault.blow)

    def _reboot(self, place: str, span_us: int) -> None:
        if span_us >= 0:
            self._later(max(1, span_us), self._targets.boot, place)

    def _expire(self, process: Process, span_us: int) -> None:
        process.has_ticket = False
        for link in self._network.links(process):
            self._network.flap(process, link.receiver, BondLoss.EXPIRED)
        self._later(span_us, self._renew, process)

    def _end_outage(self) -> None:
        self._network.outages -= 1
        self._network.reconnect_all()

    def _renew(self, process: Process) -> None:
        process.has_ticket = True
        self._network.reconnect_all()

    def _operate(self, fault: Fault) -> None:
        if fault.blow is Blow.REMOVE:
            self._remove(fault)
        else:
            self._recover(fault)

    def _remove(self, fault: Fault) -> None:
        """Request a removal. The removed process ends by itself when it learns that; its node restarts."""
        process = self._find(fault.targets[0])
        place = process.place if process is not None else fault.targets[0]
        if place == LEADER or (self._merciful and process is not None and not self._can_spare(process)):
            return
        self._targets.remove(place)
        if place in self._targets.places:  # and not where a host runs a second TD of a node
            for again in range(1, 4):
                self._reboot(place, again * (fault.span_us + SECOND_US))

    def _recover(self, fault: Fault) -> None:
        """Take the others from a survivor, let it recover, and give them back later, however merciful.

        The operator tries several times: nobody else knows when the survivor may.
        """
        survivor = self._find(fault.targets[0])
        if survivor is None:
            return
        place, span_us = survivor.place, fault.span_us
        if fault.amount:
            for other in self._targets.alive():
                if other is not survivor and other.alive:
                    self._targets.kill(other, BondLoss.LOST)
                    self._reboot(other.place, span_us * (1 + other.serial % 3) // 2)
        else:
            others = [other for other in self._targets.places if other != place]
            pairs = [(other, place) for other in others] + [(place, other) for other in others]
            self._network.block(pairs)
            self._later(2 * span_us, self._network.unblock, pairs)
        for after in (4, 5, 6, 7):
            self._later(span_us * after // 4, self._targets.recover, place)

    def _can_spare(self, process: Process) -> bool:
        return self._targets.can_recover(without=process)

    def _clone(self, fault: Fault) -> None:
        process = self._find(fault.targets[0])
        twin = self._targets.clone(process.place) if process is not None else None
        if twin is not None:
            self._later(fault.span_us + SECOND_US, self._end, twin)

    def _end(self, process: Process) -> None:
        if process.alive:
            self._targets.kill(process, BondLoss.LOST)

    # ---- links ------------------------------------------------------------------
    def _link(self, fault: Fault) -> None:
        first, second = (self._find(target) for target in fault.targets)
        if first is None or second is None or first is second:
            return
        if fault.blow is Blow.FLAP:
            self._network.flap(first, second, BondLoss.LOST)
            return
        self._network.hold(first, second)
        self._network.hold(second, first)
        self._later(fault.span_us, self._network.release, first, second)
        self._later(fault.span_us, self._network.release, second, first)

    def _cut(self, fault: Fault) -> None:
        pairs = self._pairs(fault)
        if pairs:
            self._network.block(pairs)
            self._later(fault.span_us, self._network.unblock, pairs)

    def _pairs(self, fault: Fault) -> list[tuple[str, str]]:
        """Return the (from, to) places that cannot reach each other."""
        places = self._targets.places
        chosen = [self._place(target) for target in fault.targets]
        inside = [place for place in chosen if place is not None]
        outside = [place for place in places if place not in inside]
        if fault.blow is Blow.CUT:
            if len(inside) < 2 or inside[0] == inside[1]:
                return []
            return [(inside[0], inside[1]), (inside[1], inside[0])]
        if fault.blow is Blow.BRIDGE:
            inside = inside[1:]  # the first of the targets reaches both halves
        into = [(far, near) for near in inside for far in outside]
        out_of = [(near, far) for near in inside for far in outside]
        match fault.blow:
            case Blow.DEAFEN:
                return into
            case Blow.MUTE:
                return out_of
            case _:
                return into + out_of

    def _place(self, target: str) -> str | None:
        if target != LEADER:
            return target
        leader = self._targets.leader()
        return leader.place if leader is not None else None
