"""Properties that only some runs have: limits that a run reaches, sessions that expire, groups founded apart.

Each has a probability of its own, and all use a separate stream: the rest of a run does not depend on them.
"""

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from node.raft.types import Bootstrap, Settings
from node.simulation.faults import Fault, draw_rare_faults, draw_removals
from node.simulation.scheduler import MS_US


@dataclass(frozen=True, slots=True, kw_only=True)
class Rarities:
    """Changes to the rest of a schedule.

    Attributes:
        settings: all settings, with the rare ones.
        weather, shape: fields of ``Weather`` and ``Shape``.
        plan: additional faults.
    """

    settings: Settings
    weather: dict[str, Any] = field(default_factory=dict)
    shape: dict[str, Any] = field(default_factory=dict)
    plan: tuple[Fault, ...] = ()


def draw_rarities(rng: Random, settings: Settings, names: tuple[str, ...]) -> Rarities:
    """Draw the rare properties of one run of the nodes ``names``."""
    election_ms = settings.election_timeout_ms
    weather: dict[str, Any] = {}
    shape: dict[str, Any] = {}
    if rng.random() < 0.3:
        weather["gather_us"] = int(rng.choice((0.0005, 0.005, 0.05)) * election_ms * MS_US)
    if rng.random() < 0.5:
        weather["partial"] = rng.random()
    if rng.random() < 0.15:
        settings = replace(settings, session_ttl_ms=rng.choice((3, 10)) * election_ms)
    if rng.random() < 0.2:
        settings = _draw_limits(rng, settings)
    if rng.random() < 0.12:
        # Every node may found: a node that is alone for long enough does.
        shape["bootstrap"] = Bootstrap.AUTO
        shape["founders"] = names
        shape["bootstrap_delay_ms"] = rng.choice((0, 1, 3)) * election_ms
        settings = replace(settings, on_rival=rng.choice(("refuse", "discard-shorter")))
    plan = draw_rare_faults(rng, pace_us=election_ms * MS_US) if rng.random() < 0.15 else ()
    if rng.random() < 0.05:
        # More nodes may found than are needed: separated at the start, they found two clusters.
        shape["expect"] = rng.choice((2, 3))
    if rng.random() < 0.15:
        plan += draw_removals(rng, names, pace_us=election_ms * MS_US)
    if rng.random() < 0.1:
        # Answers arrive when their candidate stands in a later term, or leads, or follows.
        weather["late_votes"] = rng.choice((0.1, 0.5))
        weather["late_votes_us"] = rng.choice((2, 6)) * election_ms * MS_US
    return Rarities(settings=settings, weather=weather, shape=shape, plan=plan)


def _draw_limits(rng: Random, settings: Settings) -> Settings:
    """Draw limits. Some of the buffers become so small that a run fills them."""
    small: dict[str, Any] = {
        "pending_max": rng.choice((8, 24)),
        "session_window": rng.choice((1, 4)),
        "append_bytes_max": rng.choice((1, 400)),
        "chunk_bytes_max": rng.choice((1, 400)),
        "catchup_buffer_bytes_max": rng.choice((1, 1_000)),
    }
    return replace(settings, **{name: value for name, value in small.items() if rng.random() < 0.6})
