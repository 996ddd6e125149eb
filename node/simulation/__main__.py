"""``python -m node.simulation``: run schedules for a while, or one again.

Exit code 0: no oracle was contradicted. 1: one was. 2: usage. 130: ended by Ctrl-C, and none was so far.
"""

import argparse
import json
import os
import secrets
import sys
import time
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from node.simulation.campaign import Totals, run_campaign
from node.simulation.shrink import fails, render, shrink
from node.simulation.simulation import EVENTS, ScheduleError, Simulation, draw_schedule

INTERRUPTED: Final = 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m node.simulation", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default 60)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--events", type=int, default=EVENTS, help="events before the healing")
    parser.add_argument("--first", type=int, help="first seed (default: a random one)")
    parser.add_argument("--seed", type=int, help="run this seed alone, with its trace")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--no-shrink", action="store_true", help="show failures as they are")
    return parser


def _explain(seed: int, events: int, *, shrunk: bool) -> str:
    error = fails(draw_schedule(seed, events=events), traced=True)
    if error is None:
        return f"seed {seed} does not fail when run again: the simulation is not deterministic"
    return render(shrink(error) if shrunk else error)


def _replay(arguments: argparse.Namespace, console: Console) -> int:
    simulation = Simulation(draw_schedule(arguments.seed, events=arguments.events), traced=True)
    try:
        report = simulation.run()
    except ScheduleError as exc:
        sys.stdout.write("\n".join(simulation.cluster.trace.lines) + "\n")
        console.print(render(exc if arguments.no_shrink else shrink(exc)), markup=False)
        return 1
    sys.stdout.write("\n".join(simulation.cluster.trace.lines) + "\n")
    console.print(f"{report}", markup=False)
    return 0


def _show(totals: Totals, seconds: float) -> str:
    value = totals.to_json_value()
    del value["failures"], value["interrupted"]
    rate = totals.schedules / seconds if seconds else 0.0
    shown = ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in value.items())
    return f"{shown}; {rate:.1f} schedules/s"


def _campaign(arguments: argparse.Namespace, console: Console) -> int:
    first = arguments.first if arguments.first is not None else secrets.randbelow(10**9)
    console.print(f"seeds from {first}, {arguments.jobs} jobs, {arguments.seconds:g} s")
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting")
        told = 0

        def advance(totals: Totals) -> None:
            nonlocal told
            for seed, oracle in totals.failures[told:]:
                console.print(f"seed {seed} contradicts {oracle}")
            told = len(totals.failures)
            text = f"{totals.schedules:,} schedules, {totals.events:,} events"
            progress.update(task, description=f"{text}, {len(totals.failures)} violations")

        started = time.monotonic()
        totals = run_campaign(
            first=first,
            seconds=arguments.seconds,
            jobs=arguments.jobs,
            events=arguments.events,
            progress=advance,
        )
        seconds = time.monotonic() - started
    value: dict[str, Any] = {"first_seed": first, "seconds": round(seconds, 3)}
    value |= {"jobs": arguments.jobs, "events_per_schedule": arguments.events}
    value |= totals.to_json_value()
    if arguments.json:
        sys.stdout.write(json.dumps(value) + "\n")
    else:
        sys.stdout.write(_show(totals, seconds) + "\n")
    for seed, _ in totals.failures[:1]:
        shrunk = not arguments.no_shrink
        console.print(_explain(seed, arguments.events, shrunk=shrunk), markup=False)
    if totals.failures:
        return 1
    return INTERRUPTED if totals.interrupted else 0


def main() -> int:
    """Run; return the exit code."""
    arguments = _parser().parse_args()
    console = Console(stderr=True, soft_wrap=True)
    if arguments.seed is not None:
        return _replay(arguments, console)
    return _campaign(arguments, console)


if __name__ == "__main__":
    sys.exit(main())
