"""The schedule of faults: drawn from a seed, applied in rounds, always undone at a round's end."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from node.client.errors import ClientError, NotExecutedError
from node.raft.budget import needed_for
from tests.chaos.cluster import LOOK_EVERY_S, ChaosCluster, Node, can_fake_clocks
from tests.chaos.files import SMALL_QUOTA
from tests.support.cluster import until
from tests.support.netns import CLIENTS, Link

# Wall clocks jump by up to this much: far beyond any session window, within a ticket's lifetime.
CLOCK_JUMP_S: Final = 120
CLOCK_JUMP_MIN_S: Final = 10
WHOLE_WAIT_S: Final = 10.0
QUIET_S: Final = 2.0

CLOCK_SEEN_WITHIN_S: Final = 5.0
FLOOD_BYTES: Final = 40_000
PRESS_BYTES: Final = 400_000
TOOK: Final = "took the group's state from peers"

Undo = Callable[[], None]
Fault = Callable[[], Undo | None]


@dataclass(slots=True, kw_only=True)
class Nemesis:
    """Hurts a cluster. Which fault comes next, whom it hits and how long depends on ``rng`` alone, but for
    what the rules of mercy and the question who leads decide.

    Attributes:
        pause_max_s: the longest that a fault lasts.
        only: names of faults; empty means all that this machine and these nodes allow.
        done: how often each kind was ordered.
        seen: how often its effect was then seen.
    """

    cluster: ChaosCluster
    rng: random.Random
    say: Callable[[str], None]
    pause_max_s: float
    only: frozenset[str] = frozenset()
    done: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)

    def torment(self, seconds: float) -> None:
        """Let the clients do something that can be lost; run rounds of one or two faults for this long; then
        make everything whole."""
        time.sleep(QUIET_S)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._round(min(self._duration(), max(end - time.monotonic(), 0.5)))
        self.make_whole()

    def _duration(self) -> float:
        return self.rng.choice((0.5, 1.5, 3.0, self.pause_max_s)) * self.rng.uniform(0.5, 1.0)

    def _round(self, duration_s: float) -> None:
        undo: list[Undo] = []
        try:
            for fault in self._draw():
                undone = fault()
                if undone is not None:
                    undo.append(undone)
            time.sleep(duration_s)
        finally:
            for step in undo:
                step()
        time.sleep(self.rng.uniform(0.1, 1.0))

    def make_whole(self) -> None:
        """End every fault, start every dead node."""
        if self.cluster.network is not None:
            self.cluster.network.heal()
        for node in self.cluster.nodes:
            self.cluster.set_clock(node, 0)
            self.cluster.resume(node)
            self._restart(node)

    # ---- choosing -----------------------------------------------------------
    def families(self) -> list[list[Fault]]:
        """Return what may happen, by family; one that counts twice comes twice as often."""
        families: list[list[Fault]] = [
            [self.pause, self.pause_two],
            [self.kill, self.kill_again_and_again],
            [self.hand_over],
        ]
        if self.cluster.kind.small_snapshots:
            families[1] += [self.join_by_snapshot, self.restart_all]
        if self.cluster.kind.small_memory:
            families.append([self.press_memory])
        if self.cluster.kind.trust_disk:
            families[1].append(self.kill_all)
        if self.cluster.network is not None:
            network: list[Fault] = [
                self.partition,
                self.one_way,
                self.isolate_leader,
                self.slow,
                self.lossy,
                self.flap,
            ]
            families += [network, network]
        if can_fake_clocks():
            families.append([self.jump_clock])
        if self.only:
            families = [
                kept for family in families if (kept := [f for f in family if f.__name__ in self.only])
            ]
            assert families, f"none of {sorted(self.only)} can be done here"
        return families

    def _draw(self) -> Iterator[Fault]:
        """Yield one fault or two of different families."""
        families = self.families()
        count = min(self.rng.choice((1, 1, 2)), len(families))
        for family in self.rng.sample(families, count):
            yield self.rng.choice(family)

    def _one(self) -> Node:
        """Choose a node: often the leader, for that hurts most."""
        leader = self.cluster.leader() if self.rng.random() < 0.5 else None
        return leader or self.rng.choice(self.cluster.nodes)

    def _note(self, kind: str, detail: str) -> None:
        self.done[kind] += 1
        self.say(f"{kind}: {detail}")

    # ---- processes ----------------------------------------------------------
    def pause(self) -> Undo | None:
        return self._pause([self._one()])

    def pause_two(self) -> Undo | None:
        return self._pause(self.rng.sample(self.cluster.nodes, 2))

    def _pause(self, nodes: list[Node]) -> Undo | None:
        hit = [node for node in nodes if node.alive]
        if not hit:
            return None
        self._note("pause", ", ".join(node.name for node in hit))
        for node in hit:
            self.cluster.pause(node)
            until(lambda node=node: self.cluster.standing_still(node), f"{node.name} stands still")
            self.seen["pause"] += 1

        def undo() -> None:
            for node in hit:
                self.cluster.resume(node)

        return undo

    def kill(self) -> Undo | None:
        if not self._may_kill():
            return None
        node = self._one()
        self._note("kill", node.name)
        self.cluster.kill(node)
        return lambda: self._restart(node)

    def kill_again_and_again(self) -> Undo | None:
        """Restart one node in a loop: it dies at whatever point of its start-up it has reached."""
        if not self._may_kill():
            return None
        node = self._one()
        lives = [self.rng.uniform(0.2, 3.0) for _ in range(3)]
        self._note("restart-loop", f"{node.name}, lives of {', '.join(f'{s:.1f} s' for s in lives)}")
        self.cluster.kill(node)
        for life_s in lives:
            self.cluster.start(node)
            time.sleep(life_s)
            self.cluster.kill(node)
        return lambda: self._restart(node)

    def hand_over(self) -> None:
        """Ask the leader to hand over."""
        leader = self.cluster.leader()
        if leader is not None:
            self._note("hand-over", leader.name)
            self.cluster.hand_over(leader)

    def join_by_snapshot(self) -> Undo | None:
        """While a node is away, the log grows by so much that the entries it lacks are cut off."""
        if not self._may_kill():
            return None
        node = self._one()
        self._note("join-by-snapshot", node.name)
        self.cluster.kill(node)
        self._flood(count=8, size=FLOOD_BYTES)
        log = node.directory / "node.log"
        before = log.read_text().count(TOOK)

        def undo() -> None:
            self._restart(node)
            deadline = time.monotonic() + WHOLE_WAIT_S
            while time.monotonic() < deadline:
                if log.read_text().count(TOOK) > before:
                    self.seen["join-by-snapshot"] += 1
                    return
                time.sleep(LOOK_EVERY_S)

        return undo

    def restart_all(self) -> None:
        """A rolling restart: each node is stopped by SIGTERM as soon as all vote again."""
        self._note("rolling-restart", "all nodes")
        for node in self.rng.sample(self.cluster.nodes, len(self.cluster.nodes)):
            if not node.alive or not self._may_kill():
                return
            self.cluster.stop(node)
            self._restart(node)
        self.seen["rolling-restart"] += 1

    def press_memory(self) -> None:
        """Write more than any voter has memory for, or until the leader refuses because of that."""
        self._note("memory-pressure", "large commands")
        taken, refused = self._flood(count=400, size=PRESS_BYTES)
        self.seen["memory-pressure"] += refused or taken * PRESS_BYTES > needed_for(SMALL_QUOTA)
        self.seen["refused-for-memory"] += refused

    def _flood(self, *, count: int, size: int) -> tuple[int, bool]:
        """Let the log grow by swaps that change nothing; return how many, and whether one was refused for memory."""
        taken = 0
        with self.cluster.client(*self.cluster.nodes, deadline_s=3, attempt_s=3) as client:
            for _ in range(count):
                try:
                    client.compare_and_swap("flood", expect="what nobody wrote", value="x" * size)
                    taken += 1
                except NotExecutedError as exc:
                    if "overloaded" in str(exc):
                        return taken, True
                except ClientError:
                    continue  # nobody answers
        return taken, False

    def kill_all(self) -> Undo:
        """A power cut. Only trust_disk survives it: that is what it is for."""
        self._note("kill-all", "all nodes")
        for node in self.cluster.nodes:
            if node.alive:
                self.cluster.kill(node)

        def undo() -> None:
            for node in self.rng.sample(self.cluster.nodes, len(self.cluster.nodes)):
                self._restart(node)

        return undo

    def _may_kill(self) -> bool:
        """Volatile members: at most one is dead at a time, and none dies before all vote again. More would
        be more than the group promises to survive."""
        if self.cluster.kind.trust_disk:
            return all(node.alive for node in self.cluster.nodes)
        try:
            self.cluster.until_whole("all nodes vote", WHOLE_WAIT_S)
        except AssertionError:
            return False
        return True

    def _restart(self, node: Node) -> None:
        if not node.alive:
            self.cluster.start(node)
            self.cluster.until_listening(node)

    # ---- the network --------------------------------------------------------
    def _places(self) -> list[int]:
        return [node.place for node in self.cluster.nodes]

    def _cut(self, kind: str, one: list[int], other: list[int], *, both: bool) -> Undo:
        network = self.cluster.network
        assert network is not None
        self._note(kind, f"{one} {'<-/->' if both else '-/->'} {other}")
        network.cut(one, other, both=both)
        return network.heal

    def partition(self) -> Undo:
        places = self.rng.sample(self._places(), len(self.cluster.nodes))
        at = self.rng.randrange(1, len(places))
        return self._cut("partition", places[:at], places[at:], both=True)

    def one_way(self) -> Undo:
        places = self.rng.sample(self._places(), len(self.cluster.nodes))
        at = self.rng.randrange(1, len(places))
        return self._cut("one-way-partition", places[:at], places[at:], both=False)

    def isolate_leader(self) -> Undo:
        place = (self.cluster.leader() or self.rng.choice(self.cluster.nodes)).place
        others = [other for other in self._places() if other != place]
        match self.rng.choice(("both", "hears nothing", "is not heard")):
            case "both":
                return self._cut("leader-isolated", [place], others, both=True)
            case "hears nothing":
                return self._cut("leader-deaf", others, [place], both=False)
            case _:
                return self._cut("leader-mute", [place], others, both=False)

    def slow(self) -> Undo:
        delay_s = self.rng.choice((0.005, 0.03, 0.1))
        return self._weather("delay", Link(delay_s=delay_s, jitter_s=delay_s * self.rng.random()))

    def lossy(self) -> Undo:
        loss = self.rng.choice((0.02, 0.1, 0.25))
        return self._weather("loss", Link(loss=loss, duplicate=0.05, jitter_s=0.01))

    def _weather(self, kind: str, link: Link) -> Undo:
        """Every wire, or all those of one node; the clients' too."""
        network = self.cluster.network
        assert network is not None
        places = [*self._places(), CLIENTS]
        hit = places if self.rng.random() < 0.5 else [self._one().place]
        self._note(kind, f"{link} at {hit}")
        for one in hit:
            for other in places:
                if one != other:
                    network.set_link(one, other, link)
                    network.set_link(other, one, link)
        return network.heal

    def flap(self) -> Undo:
        """Cut and mend one node's wires quickly, several times."""
        network = self.cluster.network
        assert network is not None
        place = self._one().place
        others = [other for other in self._places() if other != place]
        self._note("flapping", f"{place}")
        for _ in range(4):
            network.cut([place], others)
            time.sleep(self.rng.uniform(0.05, 0.6))
            network.heal()
            time.sleep(self.rng.uniform(0.05, 0.3))
        return network.heal

    # ---- clocks -------------------------------------------------------------
    def jump_clock(self) -> Undo:
        node = self._one()
        offset_s = self.rng.randrange(CLOCK_JUMP_MIN_S, CLOCK_JUMP_S) * self.rng.choice((1, -1))
        self._note("clock-jump", f"{node.name} {offset_s:+d} s")
        self.cluster.set_clock(node, offset_s)

        def undo() -> None:
            told = self.cluster.vitals(node)
            if told is not None and abs(told["wall"] - time.time() - offset_s) < CLOCK_SEEN_WITHIN_S:
                self.seen["clock-jump"] += 1
            self.cluster.set_clock(node, 0)

        return undo
