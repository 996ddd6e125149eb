"""How much of the time a group of three takes writes, by when it shrinks to two voters.

python -m bench.availability [--hours 1] [--json]

Three nodes with volatile voters run in the simulator, with every oracle active. Each kind of trouble is
played for that many simulated hours, in episodes of ten minutes from equal seeds, once for each candidate: a
silent third voter is demoted at once (3 s), after 20 s, after a minute, or never (only a newer incarnation of
its node takes its place). The group takes writes when a leader has committed in its term and a quorum answers
it. It is lost when no quorum of its voters lives, and stays so to the end of its episode.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final

from node.peers import BondLoss
from node.raft.types import Settings
from node.simulation.cluster import Shape, SimulatedCluster
from node.simulation.faults import CALM
from node.simulation.oracles import Oracles
from node.simulation.scheduler import MS_US, SECOND_US
from node.simulation.workload import REGISTERS

CANDIDATES: Final = {"at once": 3_000, "20 s": 20_000, "60 s": 60_000, "never": 7 * 86_400_000}
PLACES: Final = ("a", "b", "c")
EPISODE_S: Final = 600
PROBE_US: Final = 500 * MS_US

# What happens at a time: (second, what, where).
Event = tuple[float, str, str]


def crashes(rng: Random) -> Iterator[Event]:
    """Each node dies about every five minutes, and boots again after 10 to 60 seconds."""
    for place in PLACES:
        at = 20 + rng.expovariate(1 / 300)
        while at < EPISODE_S:
            back = at + rng.uniform(10, 60)
            yield at, "kill", place
            yield back, "boot", place
            at = back + rng.expovariate(1 / 300)


def partitions(rng: Random) -> Iterator[Event]:
    """Each node is cut off about every five minutes, for two seconds to two minutes."""
    for place in PLACES:
        at = 20 + rng.expovariate(1 / 300)
        while at < EPISODE_S:
            back = at + 2 * 60 ** rng.random()
            yield at, "cut", place
            yield back, "mend", place
            at = back + rng.expovariate(1 / 300)


def partitions_and_crashes(rng: Random) -> Iterator[Event]:
    """Nodes are cut off as above, and one in three of them dies while another is away."""
    events = sorted(partitions(rng))
    yield from events
    for at, what, place in events:
        if what == "cut" and rng.random() < 1 / 3:
            other = rng.choice([other for other in PLACES if other != place])
            dies = at + rng.uniform(1, 60)
            yield dies, "kill", other
            yield dies + rng.uniform(10, 60), "boot", other


def rolling_restarts(rng: Random) -> Iterator[Event]:
    """The nodes announce a stop in turn, 30 to 60 s apart, each for 5 to 30 s; sometimes one is cut off."""
    at = 20.0
    while at < EPISODE_S:
        for place in PLACES:
            yield at, "stop", place
            yield at + rng.uniform(5, 30), "boot", place
            at += rng.uniform(30, 60)
            if rng.random() < 1 / 4:
                cut = rng.choice(PLACES)
                yield at - 20, "cut", cut
                yield at - 20 + 2 * 15 ** rng.random(), "mend", cut


TROUBLES: Final[dict[str, Callable[[Random], Iterator[Event]]]] = {
    "crashes": crashes,
    "partitions": partitions,
    "partitions and crashes": partitions_and_crashes,
    "rolling restarts": rolling_restarts,
}


class Episode:
    """One group of three, and what happens to it."""

    def __init__(self, seed: str, events: Iterator[Event], demote_to_two_after_ms: int) -> None:
        settings = Settings(heartbeat_ms=500, demote_to_two_after_ms=demote_to_two_after_ms)
        oracles = Oracles(min_voters=settings.min_voters, session_ttl_ms=settings.session_ttl_ms)
        shape = Shape(names=PLACES, founders=PLACES, machine=REGISTERS.machine, settings=settings)
        self.cluster = SimulatedCluster(shape, seed=seed, oracles=oracles, weather=CALM)
        self.events = sorted(event for event in events if event[0] < EPISODE_S)
        self.away: set[str] = set()

    def run(self) -> tuple[int, bool]:
        """Return how many probes found a group that takes writes, and whether it is lost at the end."""
        cluster = self.cluster
        cluster.start()
        taken = 0
        for now_us in range(20 * SECOND_US, EPISODE_S * SECOND_US, PROBE_US):
            while self.events and self.events[0][0] * SECOND_US <= now_us:
                self.happen(*self.events.pop(0)[1:])
            cluster.run_until(lambda: False, deadline_us=now_us)
            taken += self.takes_writes()
        return taken, not cluster.can_recover()

    def happen(self, what: str, place: str) -> None:
        process = self.cluster.process_at(place)
        match what:
            case "kill" if process is not None:
                self.cluster.kill(process, BondLoss.LOST)
            case "stop" if process is not None:
                self.cluster.kill(process, BondLoss.DEPARTED)
            case "boot" if process is None:
                self.cluster.boot(place)
            case "cut":
                self.away.add(place)
            case "mend":
                self.away.discard(place)
            case _:
                pass  # it is dead, or alive, already
        self.cluster.network.heal()
        pairs = [(one, other) for one in self.away for other in PLACES if other != one]
        self.cluster.network.block(sorted({*pairs, *((other, one) for one, other in pairs)}))

    def takes_writes(self) -> bool:
        for process in self.cluster.alive():
            member = process.member
            leading = member.leading()
            if leading is None or not leading.established:
                continue
            answering = set(leading.responsive)
            if member._have(answering) and len(answering) >= leading.copies_needed:
                return True
        return False


def measure(hours: float) -> dict[str, Any]:
    episodes = max(1, round(hours * 3600 / EPISODE_S))
    probes = episodes * (EPISODE_S - 20) * SECOND_US // PROBE_US
    found: dict[str, Any] = {
        "simulated_hours_each": round(episodes * EPISODE_S / 3600, 2),
        "groups": episodes,
    }
    for name, trouble in TROUBLES.items():
        found[name] = {}
        for candidate, after_ms in CANDIDATES.items():
            runs = [
                Episode(f"{name} {n}", trouble(Random(f"{name} {n}")), after_ms).run()
                for n in range(episodes)
            ]
            found[name][candidate] = {
                "available_percent": round(100 * sum(taken for taken, _ in runs) / probes, 2),
                "lost": sum(lost for _, lost in runs),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=1.0, help="simulated, of each trouble and candidate")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = measure(args.hours)
    if args.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{found['groups']} groups of each, {found['simulated_hours_each']} simulated hours")
    print("| trouble | " + " | ".join(CANDIDATES) + " |")
    print("|---" * (1 + len(CANDIDATES)) + "|")
    for name in TROUBLES:
        cells = [f"{cell['available_percent']} %, {cell['lost']} lost" for cell in found[name].values()]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
