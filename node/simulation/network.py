"""Bonds between simulated processes, and all that a network does to their messages.

A bond has two sides, which learn of its beginning and end at different times. Cuts are by place and
direction: messages sent into a cut are lost, and a side that receives nothing for the bond timeout gives its
bond up.
"""

from collections import Counter
from random import Random
from typing import Any, Final

from node.features import objection, objection_to_peer
from node.peers import BondLoss, Incarnation
from node.raft.events import BondDown, BondUp, Received
from node.raft.messages import VoteReply
from node.simulation.faults import Weather
from node.simulation.process import Postman, Process
from node.simulation.scheduler import SECOND_US, Scheduler
from node.simulation.trace import Trace, describe

_LONG_DELAY_US: Final = 30 * SECOND_US


class Link:
    """One direction between two processes. ``up``: the sender believes in the bond."""

    __slots__ = ("back", "epoch", "held", "last_due_us", "only", "receiver", "sender", "up")

    def __init__(self, sender: Process, receiver: Process) -> None:
        self.sender = sender
        self.receiver = receiver
        self.back: Link = self
        self.up = False
        self.epoch = 0
        self.last_due_us = 0
        self.held: list[Any] | None = None  # messages that wait; None: messages are not held
        self.only: frozenset[str] = frozenset()  # hold only these types; empty: all

    def __str__(self) -> str:
        return f"{self.sender.label}->{self.receiver.label}"


class SimulatedNetwork(Postman):
    """All links between all living processes."""

    def __init__(self, *, scheduler: Scheduler, rng: Random, weather: Weather, trace: Trace) -> None:
        self.weather = weather
        self.sent = 0
        self.lost = 0
        self._scheduler = scheduler
        self._rng = rng
        self._trace = trace
        self._members: list[Process] = []
        self._links: dict[Process, dict[Incarnation, Link]] = {}
        self._blocked: Counter[tuple[str, str]] = Counter()
        self.outages = 0  # during an outage no node can attest: no new bonds

    # ---- who is there ---------------------------------------------------------
    def join(self, process: Process) -> None:
        """Let ``process`` bond with every process that it can reach."""
        mine = self._links[process] = {}
        for other in tuple(self._members):
            former = self._links[other].get(process.inc)
            if former is not None:
                # The same incarnation as before (trust_disk): its new connection ends the old one.
                self._side_down(former, former.epoch, BondLoss.LOST)
            if not other.alive:
                continue  # it died while it handled the end of the old bond
            link, back = Link(process, other), Link(other, process)
            link.back, back.back = back, link
            mine[other.inc] = link
            self._links[other][process.inc] = back
            self._reconnect(link)
        self._members.append(process)

    def leave(self, process: Process, loss: BondLoss) -> None:
        """Remove a dead process. Its peers learn of its death by a reset or by the bond timeout."""
        self._members.remove(process)
        for link in self._links.pop(process).values():
            link.up = False
            told = loss is BondLoss.DEPARTED or self._rng.random() < self.weather.reset
            if told and not self._is_blocked(link):
                delay_us = self._delay_us()
            else:
                delay_us = self._patience_us()
                loss = BondLoss.LOST if loss is BondLoss.DEPARTED else loss
            self._scheduler.after(delay_us, self._side_down, link.back, link.epoch, loss)

    def links(self, process: Process) -> list[Link]:
        """Return the links that start at a living process."""
        return list(self._links[process].values())

    # ---- messages -------------------------------------------------------------
    def send(self, sender: Process, to: tuple[Incarnation, ...], message: Any) -> None:
        """Give one message to the bonds with ``to``. A peer without a bond receives nothing."""
        links = self._links.get(sender)
        if links is None:
            return
        for peer in to:
            link = links.get(peer)
            if link is not None and link.up:
                self._send(link, message)

    def _send(self, link: Link, message: Any) -> None:
        self.sent += 1
        if self._blocked and self._is_blocked(link):
            self._lose(link, message, "cut")
        elif link.held is not None and (not link.only or type(message).__name__ in link.only):
            link.held.append(message)
            if self._trace.on:
                self._trace.note(str(link), f"held {describe(message)}")
        else:
            self._launch(link, message)

    def _launch(self, link: Link, message: Any) -> None:
        weather, random = self.weather, self._rng.random
        if weather.drop and random() < weather.drop:
            self._lose(link, message, "dropped")
            return
        due_us = self._scheduler.now_us + self._delay_us()
        if weather.late_votes and type(message) is VoteReply and random() < weather.late_votes:
            due_us += int(random() * weather.late_votes_us)
        elif weather.fifo:
            if due_us < link.last_due_us:
                due_us = link.last_due_us
            link.last_due_us = due_us
        self._scheduler.at(due_us, self._arrive, link, link.epoch, message)
        if weather.duplicate and random() < weather.duplicate:
            due_us += self._delay_us()
            self._scheduler.at(due_us, self._arrive, link, link.epoch, message)

    def _arrive(self, link: Link, epoch: int, message: Any) -> None:
        receiver = link.receiver
        if not receiver.alive or not link.back.up:
            self._lose(link, message, "no bond")
        elif link.epoch != epoch and self._rng.random() >= self.weather.ghost:
            self._lose(link, message, "bond broke")
        else:
            receiver.feed(Received(link.sender.inc, message))

    def _lose(self, link: Link, message: Any, why: str) -> None:
        self.lost += 1
        if self._trace.on:
            self._trace.note(str(link), f"lost ({why}) {describe(message)}")

    def _delay_us(self) -> int:
        weather, random = self.weather, self._rng.random
        if weather.long_delay and random() < weather.long_delay:
            return int(random() * _LONG_DELAY_US)
        if not weather.spread_us:
            return weather.delay_us
        return weather.delay_us + int(weather.spread_us * random() ** 4)

    # ---- holding back, for clogs and for directed scenarios ---------------------
    def hold(self, sender: Process, receiver: Process, only: frozenset[str] = frozenset()) -> None:
        """Hold all messages sent from now on; ``only``: names of message types, empty for all."""
        link = self._links[sender][receiver.inc]
        link.only = only
        if link.held is None:
            link.held = []

    def release(self, sender: Process, receiver: Process, *, discard: bool = False) -> int:
        """Deliver all held messages, or lose them if ``discard``. Return how many they were."""
        link = self._links.get(sender, {}).get(receiver.inc)
        if link is None or link.held is None:
            return 0
        held, link.held = link.held, None
        for message in held:
            if discard:
                self._lose(link, message, "discarded")
            else:
                self._launch(link, message)
        return len(held)

    def let_through(self, sender: Process, receiver: Process, count: int) -> None:
        """Deliver the oldest ``count`` held messages, and continue to hold the rest."""
        link = self._links[sender][receiver.inc]
        held = link.held or []
        for message in held[:count]:
            self._launch(link, message)
        del held[:count]

    # ---- cuts -----------------------------------------------------------------
    def block(self, pairs: list[tuple[str, str]]) -> None:
        """Lose all messages between these (from, to) places until each ``block`` has had its ``unblock``."""
        for pair in pairs:
            self._blocked[pair] += 1
        fresh = set(pairs)
        for process in self._members:
            for link in self._links[process].values():
                if (link.sender.place, link.receiver.place) in fresh and link.back.up:
                    patience_us = self._patience_us()
                    self._scheduler.after(patience_us, self._fall_silent, link, link.epoch)

    def unblock(self, pairs: list[tuple[str, str]]) -> None:
        """Undo one ``block`` of these pairs."""
        for pair in pairs:
            self._blocked[pair] -= 1
            if self._blocked[pair] <= 0:
                del self._blocked[pair]
        self.reconnect_all()

    def heal(self) -> None:
        """Undo every block, every hold and every outage.

        Bonds with dead processes are ended now, as the pings of a real bond would end them. Members rely on
        that, and with a very long bond timeout it would happen only after the healed group is judged.
        """
        self._blocked.clear()
        self.outages = 0
        for process in self._members:
            for link in self._links[process].values():
                link.last_due_us = 0  # no message waits behind one that takes half a minute
                self.release(link.sender, link.receiver)
                if link.up and not link.receiver.alive:
                    self._scheduler.after(
                        self._patience_us(), self._side_down, link, link.epoch, BondLoss.LOST
                    )
        self.reconnect_all()

    def _is_blocked(self, link: Link) -> bool:
        return (link.sender.place, link.receiver.place) in self._blocked

    def _patience_us(self) -> int:
        return int(self.weather.bond_timeout_us * (0.8 + 0.4 * self._rng.random()))

    def _fall_silent(self, link: Link, epoch: int) -> None:
        """The receiver has received nothing over ``link`` for a whole bond timeout."""
        if link.epoch == epoch and self._is_blocked(link):
            self._side_down(link.back, epoch, BondLoss.LOST)
            if not self._is_blocked(link.back):
                delay_us = self._delay_us()
                self._scheduler.after(delay_us, self._side_down, link, epoch, BondLoss.LOST)

    def starve(self, process: Process) -> None:
        """``process`` has stopped: a peer that receives nothing for a bond timeout gives its bond up."""
        for link in self._links[process].values():
            self._scheduler.after(self._patience_us(), self._miss, link, link.epoch)

    def _miss(self, link: Link, epoch: int) -> None:
        if link.sender.stalled:
            self._side_down(link.back, epoch, BondLoss.LOST)

    # ---- bonds ----------------------------------------------------------------
    def flap(self, first: Process, second: Process, loss: BondLoss) -> None:
        """Break one bond at both sides, now. It will form again."""
        link = self._links.get(first, {}).get(second.inc)
        if link is not None:
            self._side_down(link, link.epoch, loss)
            self._side_down(link.back, link.epoch, loss)

    def part(self, process: Process, peer: Incarnation) -> None:
        link = self._links.get(process, {}).get(peer)
        if link is not None:
            self._scheduler.after(0, self._side_down, link, link.epoch, BondLoss.LOST)
            self._scheduler.after(self._delay_us(), self._side_down, link.back, link.epoch, BondLoss.LOST)

    def reconnect_all(self) -> None:
        """Try every bond that is missing, in a while."""
        for process in self._members:
            for link in self._links[process].values():
                if not link.up and (link.sender.serial < link.receiver.serial or link.back.up):
                    self._reconnect(link)

    def _reconnect(self, link: Link) -> None:
        delay_us = int(self.weather.reconnect_us * (0.5 + self._rng.random()))
        self._scheduler.after(delay_us, self._try_bond, link, link.epoch)

    def _try_bond(self, link: Link, epoch: int) -> None:
        back = link.back
        if link.epoch != epoch or (link.up and back.up):
            return
        first, second = link.sender, link.receiver
        if self.outages or not (first.alive and second.alive and first.has_ticket and second.has_ticket):
            return
        if self._is_blocked(link) or self._is_blocked(back):
            return
        if not (_lets_in(first, second) and _lets_in(second, first)):
            return
        # A side that has not noticed the end of the old bond notices it by the new one.
        self._side_down(link, epoch, BondLoss.LOST)
        self._side_down(back, epoch, BondLoss.LOST)
        link.epoch = back.epoch = epoch + 1
        self._side_up(link, link.epoch)
        skew_us = int(self.weather.skew_us * self._rng.random())
        self._scheduler.after(skew_us, self._side_up, back, link.epoch)

    def _side_up(self, link: Link, epoch: int) -> None:
        if link.epoch == epoch and not link.up and link.sender.alive and link.receiver.alive:
            link.up = True
            link.sender.feed(BondUp(link.receiver.inc, link.receiver.preference, link.receiver.member.build))

    def _side_down(self, link: Link, epoch: int, loss: BondLoss) -> None:
        if link.epoch != epoch or not link.up:
            return
        link.up = False
        if not link.sender.alive:
            return
        link.sender.feed(BondDown(link.receiver.inc, loss))
        if link.receiver.alive:
            self._reconnect(link)


def _lets_in(member: Process, stranger: Process) -> bool:
    """Return whether ``member`` accepts the Hello of ``stranger``, judged by the software of both."""
    build, levels = stranger.member.build, member.member.replica.levels
    if levels is None:
        return not objection_to_peer(member.member.build, build)
    return not objection(build, levels)
