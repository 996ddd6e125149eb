"""Whole groups in one process, on simulated clocks, networks and disks. ``docs/simulator.md`` shows how."""

from node.simulation.errors import InvariantError
from node.simulation.simulation import Report, Schedule, ScheduleError, draw_schedule, run
from node.simulation.workload import Workload

__all__ = [
    "InvariantError",
    "Report",
    "Schedule",
    "ScheduleError",
    "Workload",
    "draw_schedule",
    "run",
]
