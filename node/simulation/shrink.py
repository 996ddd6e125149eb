"""Makes a failing schedule small: delta debugging over its faults, then calmer weather and fewer clients.

A smaller schedule counts if it contradicts the same oracle. Random choices of messages and clients change
with every fault removed, so this finds *a* small schedule, not always the smallest.
"""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Final

from node.simulation.faults import CALM
from node.simulation.simulation import Schedule, ScheduleError, run

RUNS_MAX: Final = 300


def shrink(error: ScheduleError, *, runs_max: int = RUNS_MAX) -> ScheduleError:
    """Return the failure of the smallest schedule found within ``runs_max`` runs, with its trace."""
    best = error
    runs = 0
    progress = True
    while progress and runs < runs_max:
        progress = False
        for candidate in _smaller(best.schedule):
            if runs >= runs_max:
                break
            runs += 1
            failure = fails(candidate)
            if failure is not None and failure.error.oracle == error.error.oracle:
                best, progress = failure, True
                break
    return fails(best.schedule, traced=True) or best


def fails(schedule: Schedule, *, traced: bool = False) -> ScheduleError | None:
    """Run ``schedule``; return its failure, None if it has none."""
    try:
        run(schedule, traced=traced, keep=400)
    except ScheduleError as exc:
        return exc
    return None


def _smaller(schedule: Schedule) -> Iterator[Schedule]:
    plan = tuple(schedule.plan)
    size = len(plan)
    while size >= 1:
        for start in range(0, len(plan), size):
            yield replace(schedule, plan=plan[:start] + plan[start + size :])
        size //= 2
    if schedule.events > 50:
        yield replace(schedule, events=schedule.events * 3 // 4)
    for rate in fields(CALM):
        calm = getattr(CALM, rate.name)
        if getattr(schedule.weather, rate.name) != calm:
            yield replace(schedule, weather=replace(schedule.weather, **{rate.name: calm}))
    if schedule.habits.clients > 1:
        yield replace(schedule, habits=replace(schedule.habits, clients=1))


def render(error: ScheduleError) -> str:
    """Return a text for people: the oracle, the schedule, the end of the trace."""
    schedule = error.schedule
    shape, plan = schedule.shape, tuple(schedule.plan)
    lines = [
        f"seed {schedule.seed} contradicts {error.error.oracle}",
        f"  {error.error.detail}",
        f"nodes {' '.join(shape.names)}; founders {' '.join(shape.founders)}; events {schedule.events}",
        f"{shape.settings}",
        f"{schedule.weather}",
        f"{schedule.habits}",
        f"faults ({len(plan)}):",
        *(f"  {fault}" for fault in plan),
        "end of the trace:",
        *(f"  {line}" for line in error.tail),
    ]
    return "\n".join(lines)
