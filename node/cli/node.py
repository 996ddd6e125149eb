"""``bondstone node run``."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from attestation.background import FatalWorkError
from node.cli.logs import log_to_stderr
from node.cli.output import print_event, say
from node.config import NodeFiles, load_node
from node.daemon import running
from node.environment import read_environment
from node.errors import ConfigError, NodeError
from node.installation import require_own_packages
from node.machines.loader import IMPORTABLE
from node.process_events import NodeStopped, ProcessEvent, Reporter
from node.progress import report_progress

app = typer.Typer()


@app.callback()
def node() -> None:
    """Run a node."""


@app.command()
def run(
    config: Annotated[Path, typer.Option(help="The node file; it names the group document.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON event a line on stdout.")] = False,
    stop_with_stdin: Annotated[
        bool, typer.Option(help="Stop when standard input ends (set by `bondstone dev`).")
    ] = False,
) -> None:
    """Run one node until SIGTERM or Ctrl-C."""
    if not __debug__:
        raise ConfigError("bondstone does not run under `python -O`: its assertions are part of its safety")
    log_to_stderr(read_environment().log_level)
    require_own_packages()
    loaded = load_node(config)
    uvloop.run(_run(loaded, _print_json if as_json else _print_text, stop_with_stdin=stop_with_stdin))


async def _run(files: NodeFiles, report: Reporter, *, stop_with_stdin: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if stop_with_stdin:
        await loop.connect_read_pipe(lambda: _UntilEnd(stop), sys.stdin)
    async with running(files.document, files.config, report, IMPORTABLE) as service:
        progress = service.background.once("tell-progress", report_progress(service, report))
        try:
            await service.background.until(stop)
        except FatalWorkError as exc:
            raise NodeError(str(exc)) from exc
        finally:
            progress.cancel()
    report(NodeStopped(files.config.node.name))


class _UntilEnd(asyncio.Protocol):
    """Sets an event when the pipe ends: then the process that started this one is gone."""

    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended

    def eof_received(self) -> None:
        self._ended.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._ended.set()


def _print_json(event: ProcessEvent) -> None:
    try:
        print_event(event)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - the pipe has no reader any more


def _print_text(event: ProcessEvent) -> None:
    fields = event.fields()
    details = " ".join(f"{key}={value}" for key, value in fields.items() if key not in ("event", "name"))
    say(f"{fields['event']} {details}".rstrip())
