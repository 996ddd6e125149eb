"""``python -m node.simulation``: run schedules for a while, or one again.

Exit code 0: no oracle was contradicted. 1: an oracle was contradicted. 2: usage. 130: ended by Ctrl-C before
an oracle was contradicted.
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

from node.simulation.campaign import Totals, outcomes, run_campaign
from node.simulation.compiled import (
    CACHE,
    CompileError,
    DivergenceError,
    build,
    is_compiled,
    prove,
    read,
    start,
)
from node.simulation.shrink import fails, render, shrink
from node.simulation.simulation import EVENTS, ScheduleError, Simulation, draw_schedule

INTERRUPTED: Final = 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m node.simulation", description=__doc__)
    one_of = parser.add_mutually_exclusive_group()
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default 60)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--events", type=int, default=EVENTS, help="events before the healing")
    parser.add_argument("--first", type=int, help="first seed (default: a random one)")
    one_of.add_argument("--seed", type=int, help="run this seed alone, with its trace")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--no-shrink", action="store_true", help="show failures as they are")
    parser.add_argument("--no-replay", action="store_true", help="only name the seeds that fail")
    one_of.add_argument("--digests", type=int, metavar="COUNT", help="only the traces' digests of some seeds")
    one_of.add_argument("--compiled", action="store_true", help="run a compiled copy, once proven equal")
    return parser


def _explain(seed: int, oracle: str, arguments: argparse.Namespace) -> str:
    error = fails(draw_schedule(seed, events=arguments.events), traced=True)
    found = "nothing" if error is None else error.error.oracle
    if error is None or found != oracle:
        why = "the compiled copy is wrong" if arguments.compiled else "the simulation is not deterministic"
        return f"seed {seed} contradicted {oracle}, and {found} when interpreted again: {why}"
    return render(error if arguments.no_shrink else shrink(error))


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


_ABOUT: Final = (
    "first_seed",
    "seconds",
    "jobs",
    "events_per_schedule",
    "compiled",
    "failures",
    "interrupted",
)


def _show(value: dict[str, Any]) -> str:
    rate = value["schedules"] / value["seconds"] if value["seconds"] else 0.0
    counts = {name: number for name, number in value.items() if name not in _ABOUT}
    shown = ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in counts.items())
    return f"{shown}; {rate:.1f} schedules/s"


def _campaign(first: int, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
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
    value |= {"jobs": arguments.jobs, "events_per_schedule": arguments.events, "compiled": is_compiled()}
    return value | totals.to_json_value()


def _compiled_campaign(first: int, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    copy = build(CACHE, tell=console.print)
    proven = prove(copy, first=first, events=arguments.events)
    console.print(f"{proven} traces are the same, compiled and interpreted")
    numbers = {name: getattr(arguments, name) for name in ("seconds", "jobs", "events")}
    options = [f"--{name}={number}" for name, number in numbers.items()]
    return read(start(copy, "node.simulation", *options, f"--first={first}", "--json", "--no-replay"))


def _judge(value: dict[str, Any], arguments: argparse.Namespace, console: Console) -> int:
    sys.stdout.write((json.dumps(value) if arguments.json else _show(value)) + "\n")
    failures = value["failures"]
    if failures and not arguments.no_replay:
        console.print(_explain(failures[0]["seed"], failures[0]["oracle"], arguments), markup=False)
    if failures:
        return 1
    return INTERRUPTED if value["interrupted"] else 0


def main() -> int:
    """Run; return the exit code."""
    arguments = _parser().parse_args()
    console = Console(stderr=True, soft_wrap=True)
    if arguments.seed is not None:
        return _replay(arguments, console)
    first = arguments.first if arguments.first is not None else secrets.randbelow(10**9)
    if arguments.digests is not None:
        found = outcomes(first, arguments.digests, events=arguments.events)
        sys.stdout.write(json.dumps({"compiled": is_compiled(), "outcomes": found}) + "\n")
        return 0
    try:
        campaign = _compiled_campaign if arguments.compiled else _campaign
        value = campaign(first, arguments, console)
    except (CompileError, DivergenceError) as exc:
        console.print(f"error: {exc}", markup=False)
        return 1 if isinstance(exc, DivergenceError) else 2
    except KeyboardInterrupt:
        console.print("interrupted before the first schedule")
        return INTERRUPTED
    return _judge(value, arguments, console)


if __name__ == "__main__":
    sys.exit(main())
