"""The only module that prints. Text from a server, a peer, a quote or a stored value is foreign text.

A terminal obeys control characters, and ``rich`` obeys ``[brackets]``: foreign text could paint "accepted"
over "refused". So every text is first made visible, wherever it comes from, and no text is ever markup. A
requested value is printed byte by byte, unless the output is a terminal.
"""

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from node.process_events import ProcessEvent

GOOD: Final = "green bold"
BAD: Final = "red bold"
CAUTION: Final = "yellow"
STRONG: Final = "bold"
RTMR0_WAIVED: Final = (
    "RTMR[0] is not checked: the host makes the ACPI tables, and their code can touch the TD's memory"
)

# A text, or a text and its style.
Part = str | tuple[str, str]


def visible(text: str) -> str:
    """Return one line in which every character is visible: characters that are not printable are escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def visible_bytes(data: bytes) -> str:
    r"""Return a text that stands for these bytes alone.

    UTF-8 as it is, ``\xNN`` for other bytes and for unprintable characters, ``\\`` for a backslash.
    """
    shown = []
    for char in data.decode("utf-8", "surrogateescape"):
        if char == "\\":
            shown.append("\\\\")
        elif char.isprintable():
            shown.append(char)
        else:
            shown += [f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape")]
    return "".join(shown)


def say(*parts: Part, error: bool = False) -> None:
    """Print one line.

    Args:
        parts: texts, and texts with a style.
        error: on stderr.
    """
    stream = sys.stderr if error else sys.stdout
    texts = [(part, "") if isinstance(part, str) else part for part in parts]
    if any(style for _, style in texts) and stream.isatty():
        line = Text.assemble(*((visible(text), style) for text, style in texts))
        _console(error=error).print(line, soft_wrap=True)
    else:
        stream.write("".join(visible(text) for text, _ in texts) + "\n")
    stream.flush()


def say_in_place(text: str, *, is_last: bool) -> None:
    """Print progress: on a terminal in the place of the text before, elsewhere as a line of its own."""
    if sys.stdout.isatty():
        sys.stdout.write(f"\r{visible(text)}\x1b[K" + ("\n" if is_last else ""))
        sys.stdout.flush()
    else:
        say(text)


def say_lines(text: str, *, error: bool = False) -> None:
    """Print a text of our own that has several lines."""
    for line in text.removesuffix("\n").split("\n"):
        say(line, error=error)


def table(columns: Sequence[str], rows: Iterable[Sequence[Part]], *, title: str = "") -> None:
    """Print rows under headings; a cell is a text, or a text with a style."""
    shown = Table(title=Text(visible(title)) if title else None, title_justify="left")
    for column in columns:
        shown.add_column(column, overflow="fold")
    _print(shown, rows)


def pairs(rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """Print names and their values."""
    shown = Table(show_header=False, title=Text(visible(title)) if title else None, title_justify="left")
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    _print(shown, rows)


def say_unchecked(not_checked: Sequence[str]) -> None:
    """Warn of checks that a policy waived, where the host could then influence what was accepted."""
    if "rtmr0" in not_checked:
        say((RTMR0_WAIVED, CAUTION))


def print_json(value: Any) -> None:
    """Print one JSON document on stdout, in ASCII."""
    json.dump(value, sys.stdout, indent=2, default=_hexed)
    sys.stdout.write("\n")


def print_event(event: ProcessEvent) -> None:
    """Print one JSON event on a line of its own, at once."""
    sys.stdout.write(json.dumps(event.fields()) + "\n")
    sys.stdout.flush()


def value_bytes(data: bytes) -> None:
    """Print a value: on a terminal visibly and on a line, otherwise exactly its bytes."""
    if sys.stdout.isatty():
        sys.stdout.write(visible_bytes(data) + "\n")
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
    sys.stdout.flush()


class VisibleFormatter(logging.Formatter):
    """Formats log messages, which quote peers and clients: each stays one line and cannot move the cursor."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class' name
        return visible(super().formatMessage(record))


def prepare() -> None:
    """Ensure that a character that the terminal lacks does not end the program."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _print(shown: Table, rows: Iterable[Sequence[Part]]) -> None:
    for row in rows:
        cells = [(cell, "") if isinstance(cell, str) else cell for cell in row]
        shown.add_row(*(Text(visible(text), style=style) for text, style in cells))
    _console(error=False).print(shown)


def _console(*, error: bool) -> Console:
    return Console(stderr=error, markup=False, highlight=False, emoji=False)


def _escaped(char: str) -> str:
    number = ord(char)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _hexed(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(type(value).__name__)
