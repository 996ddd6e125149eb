"""``bondstone node run`` and ``bondstone node stop``.

Exit codes of ``stop``: 0 the node has stopped; 1 it is not safe to stop it, or the leader cannot hand over;
2 usage, or no node runs there; 3 it is not known whether it is safe, or the process goes on.
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer
import uvloop

from attestation.background import FatalWorkError
from node.api import schemas
from node.cli.connect import connect
from node.cli.exits import NO, UNDECIDED
from node.cli.logs import log_to_stderr
from node.cli.output import CAUTION, print_event, say, say_in_place
from node.client import BondstoneClient
from node.config import NodeFiles, load_node
from node.daemon import running
from node.environment import read_environment
from node.errors import ConfigError, NodeError
from node.group import collector
from node.installation import require_own_packages
from node.machines.loader import IMPORTABLE
from node.pid_file import running_node
from node.process_events import FetchingState, NodeStopped, ProcessEvent, Reporter
from node.progress import report_progress

app = typer.Typer()
WAIT_S_MAX: Final = 86_400
PAUSE_S: Final = 0.5
SETTLE_S: Final = 10.0  # a new leader can judge once an entry of its term is committed


@app.callback()
def node() -> None:
    """Run or stop a node."""


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


@app.command()
def stop(
    config: Annotated[Path, typer.Option(help="The node file of a node that runs on this machine.")],
    safe: Annotated[
        bool,
        typer.Option("--safe", help="Only if the group can spare the node; hand its leadership over first."),
    ] = False,
    wait: Annotated[
        int,
        typer.Option(min=0, max=WAIT_S_MAX, help="With --safe: wait up to this many seconds until it can."),
    ] = 0,
    force: Annotated[
        bool,
        typer.Option("--force", help="With --safe: stop the node then even if the group cannot spare it."),
    ] = False,
    timeout: Annotated[
        int, typer.Option(min=1, max=WAIT_S_MAX, help="Seconds in which the process must have ended.")
    ] = 60,
    url: Annotated[
        list[str] | None, typer.Option("--url", help="A node's API; may be given several times.")
    ] = None,
    token: Annotated[str | None, typer.Option("--token", help="Bearer token.")] = None,
    ca: Annotated[Path | None, typer.Option("--ca", help="The nodes' API certificates, PEM.")] = None,
) -> None:
    """Stop a node that runs on this machine.

    Without --safe this is SIGTERM: the node hands over a leadership, announces its end, and ends.
    With --safe the leader is asked first, as by `bondstone member safe-to-stop`;
    to hand over needs the role admin.
    """
    if not safe and (force or wait):
        raise ConfigError("--wait and --force mean something only with --safe")
    settings = load_node(config).config.node
    with running_node(Path(settings.data_dir)) as node:
        if safe:
            with connect(url, token, ca) as client:
                answer = _make_safe(client, node.peer_id.hex(), wait)
            if answer.verdict != "safe":
                say((f"{answer.verdict}: {answer.message} ({answer.reason})", CAUTION))
                if not force:
                    raise typer.Exit(NO if answer.verdict == "unsafe" else UNDECIDED)
        node.terminate()
        if not node.ends_within(timeout):
            say((f"{settings.name} has not ended within {timeout} s", CAUTION))
            raise typer.Exit(UNDECIDED)
    say(f"{settings.name} has stopped")


def _make_safe(client: BondstoneClient, member: str, wait_s: int) -> schemas.SafeToStop:
    """Return the last verdict: after up to ``wait_s``, and after the node has handed over if it leads."""
    give_up, handed_over = time.monotonic() + wait_s, False
    while True:
        answer = client.safe_to_stop(member)
        if answer.verdict == "safe":
            return answer
        if answer.reason == "leads" and not handed_over:
            client.transfer_leadership()
            give_up, handed_over = max(give_up, time.monotonic() + SETTLE_S), True
        elif time.monotonic() >= give_up:
            return answer
        time.sleep(PAUSE_S)


async def _run(files: NodeFiles, report: Reporter, *, stop_with_stdin: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if stop_with_stdin:
        await loop.connect_read_pipe(lambda: _UntilEnd(stop), sys.stdin)
    async with running(files.document, files.config, report, IMPORTABLE) as service:
        progress = service.background.once("tell-progress", report_progress(service, report))
        collector.begin()
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
    if isinstance(event, FetchingState):
        say_in_place(
            f"takes the group's state from {event.peers} members: {event.done / 1e6:,.1f} of"
            f" {event.total / 1e6:,.1f} MB, {event.bytes_per_s / 1e6:,.1f} MB/s",
            is_last=event.done == event.total,
        )
        return
    fields = event.fields()
    details = " ".join(f"{key}={value}" for key, value in fields.items() if key not in ("event", "name"))
    say(f"{fields['event']} {details}".rstrip())
