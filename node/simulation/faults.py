"""The faults of a run: the rates of small ones (the weather), and the plan of large ones (the blows).

Rates are drawn per run (swarm testing): a run with every fault at once hides what a run with one fault at
full strength shows. The plan depends on the seed alone. It is drawn as the run goes on. The faults that
happened are plain data, so that a failing plan can be shrunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from heapq import merge
from itertools import accumulate
from random import Random

from node.simulation.chance import stream
from node.simulation.scheduler import MS_US, SECOND_US

LEADER = "leader"  # a target that is looked up when the blow falls


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """The rates of one run. Probabilities are per message or per occasion; times in microseconds.

    Attributes:
        drop: a message is lost although its bond lives.
        duplicate: a message arrives twice.
        ghost: a message of a bond that broke meanwhile arrives over the next bond of the pair.
        fifo: messages of one direction keep their order, as over TLS.
        delay_us, spread_us: least delay, and how much more with a heavy tail.
        long_delay: a message takes up to 30 s.
        late_votes: an answer to a vote request takes up to ``late_votes_us``, over later terms.
        bond_timeout_us: a side gives its bond up when it has received nothing for this long.
        reconnect_us: how long it takes until a lost bond can form again.
        reset: the peer's kernel reports a death at once; otherwise the bond timeout reveals it.
        skew_us: how much later than one side the other learns of a new bond.
        late_tick_us: how late a timer fires.
        drift_ppm: clocks run up to this much too fast or slow.
        fsync_us: how long the disk takes (trust_disk).
        partial: a power cut keeps some of what was being written (trust_disk).
        full: a disk does not take a snapshot (trust_disk).
        gather_us: a busy member processes in one step all events that arrive within this time.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    ghost: float = 0.0
    fifo: bool = True
    delay_us: int = 500
    spread_us: int = 0
    long_delay: float = 0.0
    late_votes: float = 0.0
    late_votes_us: int = 0
    bond_timeout_us: int = 2 * SECOND_US
    reconnect_us: int = 200 * MS_US
    reset: float = 1.0
    skew_us: int = 0
    late_tick_us: int = 0
    drift_ppm: int = 0
    fsync_us: int = 2 * MS_US
    partial: float = 0.0
    full: float = 0.0
    gather_us: int = 0


CALM = Weather()


def draw_weather(rng: Random, *, pace_us: int) -> Weather:
    """Draw the rates of one run. ``pace_us``: about an election timeout."""

    def sometimes(chance: float, value: float) -> float:
        return rng.random() * value if rng.random() < chance else 0.0

    return Weather(
        drop=sometimes(0.4, 0.2),
        duplicate=sometimes(0.3, 0.3),
        ghost=sometimes(0.3, 1.0),
        fifo=rng.random() < 0.5,
        delay_us=rng.choice((50, 500, 5_000, 20_000)),
        spread_us=rng.choice((0, 0, 2_000, 50_000, 500_000)),
        long_delay=sometimes(0.15, 0.02),
        bond_timeout_us=rng.choice((300, 1_000, 4_000, 10**9)) * MS_US,
        reconnect_us=rng.choice((1, 20, 200, 1_000)) * MS_US,
        reset=rng.choice((0.0, 0.5, 1.0)),
        skew_us=rng.choice((0, 0, 5_000, 100_000)),
        late_tick_us=rng.choice((0, 0, 2_000, 50_000)),
        drift_ppm=rng.choice((0, 100, 20_000)),
        fsync_us=int(rng.choice((0.001, 0.01, 0.1, 0.5)) * pace_us),
    )


class Blow(Enum):
    CRASH = "crash"  # a process dies; variant: how it comes back
    TEAR = "tear"  # a process dies in the middle of its next effects
    ISOLATE = "isolate"  # cut from all others, both ways
    DEAFEN = "deafen"  # its ingress is cut
    MUTE = "mute"  # its egress is cut
    SPLIT = "split"  # the places are cut in two
    BRIDGE = "bridge"  # cut in two, except for one place that reaches both
    CUT = "cut"  # one link, both ways
    CLOG = "clog"  # one link holds everything back, then lets it go at once
    FLAP = "flap"  # one bond breaks and comes back
    STALL = "stall"  # its vCPUs stop; all events wait and then arrive at once
    EXPIRE = "expire"  # its ticket ends; all its bonds go
    JUMP = "jump"  # its wall clock jumps
    CLONE = "clone"  # its host boots a second TD from the same disk
    TRANSFER = "transfer"  # an operator moves leadership
    LEAVE = "leave"  # it sends its goodbye, dies and does not come back soon
    LAPSE = "lapse"  # the collateral ends: all tickets, and all bonds
    OUTAGE = "outage"  # quotes cannot be verified: bonds stay, no new bond forms
    REMOVE = "remove"  # an operator removes a member, and starts its node again later
    RECOVER = "recover"  # all others die, or are cut off, and an operator lets this one found a generation


RARE = (Blow.LAPSE, Blow.OUTAGE)  # they come with a run's other rarities
_APART = (*RARE, Blow.REMOVE, Blow.RECOVER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One blow.

    Attributes:
        at_us: when it happens.
        blow: its kind.
        targets: places, or ``leader``; their meaning depends on the blow.
        span_us: how long it lasts; for a crash, until the reboot (negative: never).
        amount: how many sends a torn process still makes; how far the wall clock jumps, in ms; 1: what a
            survivor recovers from is a loss, 0: a partition.
    """

    at_us: int
    blow: Blow
    targets: tuple[str, ...]
    span_us: int = 0
    amount: int = 0

    def __str__(self) -> str:
        text = f"{self.at_us / SECOND_US:9.3f}s {self.blow.value} {','.join(self.targets)}"
        if self.span_us:
            text += f" for {self.span_us / SECOND_US:.3f}s" if self.span_us > 0 else " without end"
        return text + (f" ({self.amount})" if self.amount else "")


def _draw_span_us(rng: Random, pace_us: int) -> int:
    return int(rng.choice((0.01, 0.2, 1, 3, 8, 30)) * pace_us * (0.5 + rng.random()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The blows of one run in the order of their times, the same each time they are asked for.

    Attributes:
        places: the places that they may hit.
        pace_us: about an election timeout; much faster blows would hit only a group that is down already.
        length_us: the time of the last possible blow.
        rare: additional faults.
    """

    seed: str
    places: tuple[str, ...]
    pace_us: int
    length_us: int
    rare: tuple[Fault, ...] = ()

    def __iter__(self) -> Iterator[Fault]:
        rng = stream(self.seed, "plan")
        drawn = _draw_faults(rng, self.places, pace_us=self.pace_us, length_us=self.length_us)
        if not self.rare:
            return drawn
        return merge(drawn, sorted(self.rare, key=_when), key=_when)


def _when(fault: Fault) -> int:
    return fault.at_us


def _draw_faults(rng: Random, places: tuple[str, ...], *, pace_us: int, length_us: int) -> Iterator[Fault]:
    """Draw one blow after the other. Each kind has a rate of its own, which is also drawn."""
    blows = [blow for blow in Blow if blow not in _APART and rng.random() < 0.45] or [Blow.CRASH]
    weights = list(accumulate(rng.random() + 0.05 for _ in blows))
    mean_gap_us = int(rng.choice((0.4, 1, 2, 4)) * pace_us)
    # Sometimes the blows begin at the start, mostly after the group has formed.
    at_us = rng.randint(0, 2 * mean_gap_us) if rng.random() < 0.2 else rng.randint(1, 4) * pace_us
    while at_us < length_us:
        blow = rng.choices(blows, cum_weights=weights)[0]
        yield _draw_fault(rng, blow, places, at_us, pace_us)
        at_us += int(rng.expovariate(1.0) * mean_gap_us) + 1


def draw_rare_faults(rng: Random, *, pace_us: int) -> tuple[Fault, ...]:
    """Draw a few blows that hit all nodes."""
    return tuple(
        Fault(
            at_us=rng.randint(1, 20) * pace_us,
            blow=rng.choice(RARE),
            targets=(),
            span_us=_draw_span_us(rng, pace_us),
        )
        for _ in range(rng.randint(1, 3))
    )


def draw_removals(rng: Random, places: tuple[str, ...], *, pace_us: int) -> tuple[Fault, ...]:
    """Draw a few members that an operator removes."""
    return tuple(
        Fault(
            at_us=rng.randint(2, 30) * pace_us,
            blow=Blow.REMOVE,
            targets=(LEADER if rng.random() < 0.3 else rng.choice(places),),
            span_us=_draw_span_us(rng, pace_us),
        )
        for _ in range(rng.randint(1, 6))
    )


def draw_recoveries(rng: Random, places: tuple[str, ...], *, pace_us: int) -> tuple[Fault, ...]:
    """Draw when an operator lets a survivor recover, which then was without a leader for a while."""
    return tuple(
        Fault(
            at_us=rng.randint(2, 12) * pace_us + number * 30 * pace_us,
            blow=Blow.RECOVER,
            targets=(LEADER if rng.random() < 0.2 else rng.choice(places),),
            span_us=int(pace_us * (13 + 6 * rng.random())),
            amount=rng.choice((0, 1)),
        )
        for number in range(rng.choice((1, 1, 2)))
    )


def _draw_fault(rng: Random, blow: Blow, places: tuple[str, ...], at_us: int, pace_us: int) -> Fault:
    one = LEADER if rng.random() < 0.4 else rng.choice(places)
    span_us = _draw_span_us(rng, pace_us)
    amount = 0
    targets: tuple[str, ...] = (one,)
    match blow:
        case Blow.CRASH | Blow.TEAR | Blow.LEAVE:
            span_us = rng.choice((1, span_us, span_us, -1)) if rng.random() < 0.8 else 1
            amount = rng.randint(0, len(places)) if blow is Blow.TEAR else 0
        case Blow.SPLIT | Blow.BRIDGE:
            shuffled = rng.sample(places, len(places))
            targets = tuple(shuffled[: rng.randint(1, max(1, len(places) - 1))])
        case Blow.CUT | Blow.CLOG | Blow.FLAP:
            targets = (one, rng.choice(places))
        case Blow.JUMP:
            amount, span_us = rng.choice((-3_600_000, -5_000, -50, 50, 5_000)), 0
        case Blow.TRANSFER:
            targets, span_us = ((one,) if rng.random() < 0.7 else ()), 0
        case _:
            pass
    return Fault(at_us=at_us, blow=blow, targets=targets, span_us=span_us, amount=amount)
