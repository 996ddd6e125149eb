"""The trace of a run: lines that people read and digests compare.

Tracing costs more than the run itself. So runs are made without it, and a failing seed is run again with it:
the same seed gives the same run.
"""

import hashlib
from collections import deque
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from msgspec import Struct

from node.peers import Incarnation
from node.raft.types import Entry
from node.simulation.scheduler import Scheduler


class Trace:
    """Keeps the last ``keep`` lines and a digest over all of them; keeps nothing if ``on`` is false."""

    def __init__(self, scheduler: Scheduler, *, on: bool, keep: int | None = None) -> None:
        self.on = on
        self.lines: deque[str] = deque(maxlen=keep)
        self._scheduler = scheduler
        self._digest = hashlib.sha256()

    def note(self, who: str, text: str) -> None:
        """Add a line. Callers on hot paths check ``on`` first, so that they need not make the text."""
        if not self.on:
            return
        line = f"{self._scheduler.now_us / 1_000_000:11.6f} {who:<8} {text}"
        self.lines.append(line)
        self._digest.update(line.encode() + b"\n")

    def digest(self) -> str:
        """Return the SHA-256 of all lines until now, in hex."""
        return self._digest.hexdigest()


def describe(value: Any) -> str:
    """Return a short, complete-enough, process-independent rendering of a message, event or notice."""
    match value:
        case Entry():
            return f"{value.term}:{value.index} {value.kind.name.lower()}"
        case Incarnation():
            return str(value)
        case Enum():
            return str(value.value)
        case bytes():
            return value.hex()[:8] or "-"
        case tuple() | list():
            return "[" + " ".join(describe(item) for item in value) + "]"
        case frozenset() | set():
            return "{" + " ".join(sorted(describe(item) for item in value)) + "}"
        case dict():
            inner = (f"{describe(key)}={describe(item)}" for key, item in value.items())
            return "{" + " ".join(inner) + "}"
        case Struct():
            return _describe_fields(value, value.__struct_fields__)
        case _ if is_dataclass(value):
            return _describe_fields(value, tuple(field.name for field in fields(value)))
        case _:
            return str(value)


def _describe_fields(value: Any, names: tuple[str, ...]) -> str:
    shown = " ".join(f"{name}={describe(getattr(value, name))}" for name in names)
    return f"{type(value).__name__}({shown})"
