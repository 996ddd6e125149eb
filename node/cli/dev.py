"""``bondstone dev``."""

import asyncio
import shlex
import signal
from pathlib import Path
from typing import Annotated

import typer

from attestation.files import FileError
from node.cli.output import print_event, say, say_lines, table
from node.client.settings import DEV_DIRECTORY
from node.dev import DevCluster, bondstone_command
from node.errors import ConfigError
from node.process_events import (
    ClusterReady,
    ClusterStopped,
    NodeExited,
    NodeNotReady,
    NodeReadyAgain,
    NodeStarted,
    ProcessEvent,
)


def command(
    nodes: Annotated[int, typer.Option(help="How many nodes.")] = 3,
    api_port: Annotated[int, typer.Option(help="Node i listens on this port + i.")] = 8440,
    directory: Annotated[
        Path, typer.Option("--dir", help="State, logs, keys, configuration.")
    ] = DEV_DIRECTORY,
    pccs: Annotated[bool, typer.Option(help="Serve collateral from a local PCCS, not from files.")] = False,
    authority: Annotated[
        bool, typer.Option(help="Name an authority in the group document, and leave its key in DIR.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON event a line on stdout.")] = False,
) -> None:
    """Run a local cluster of mock TDs until Ctrl-C."""
    report = print_event if as_json else _Printer(directory).report
    cluster = DevCluster(
        directory, nodes=nodes, api_port=api_port, report=report, pccs=pccs, authority=authority
    )
    try:
        asyncio.run(_run(cluster))
    except* (ConfigError, FileError) as group:
        raise group.exceptions[0] from None
    report(ClusterStopped())


async def _run(cluster: DevCluster) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None
    started = False

    def on_signal() -> None:
        stop.set()
        if not started:
            main.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        async with cluster.running():
            started = True
            await stop.wait()
    except asyncio.CancelledError:
        if not stop.is_set():
            raise


class _Printer:
    """Prints progress for people."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def report(self, event: ProcessEvent) -> None:
        match event:
            case NodeStarted():
                say(f"starting {event.name} (pid {event.pid})")
            case NodeExited():
                say(f"{event.name} (pid {event.pid}) ended with code {event.code}")
                if not event.expected:
                    say(f"  its log: {event.log}")
                    say(f"  start it again: {event.restart}")
            case NodeNotReady():
                say(f"{event.name} is not ready ({event.reason}): {event.message}")
            case NodeReadyAgain():
                say(f"{event.name} is ready again")
            case ClusterReady():
                self._ready(event)
            case ClusterStopped():
                say("stopped")
            case _:
                pass

    def _ready(self, event: ClusterReady) -> None:
        table(
            ("node", "pid", "api", "bond", "peer id"),
            ((node.name, str(node.pid), node.api, node.bond, node.peer_id[:8]) for node in event.nodes),
            title=f"group {event.group_id[:16]}… is ready (mock TDs: no hardware trust)",
        )
        cli = _shown(bondstone_command())
        url = event.nodes[0].api
        folder = shlex.quote(str(self._directory))
        # Other commands find only the default directory by themselves, and only from the present directory.
        found = self._directory == DEV_DIRECTORY
        settings = shlex.quote(str(self._directory.resolve() / "client.json"))
        lines = [
            "",
            "use it from another terminal:",
            *([] if found else [f"  export BONDSTONE_CLUSTER={settings}"]),
            f"  {cli} status",
            f"  {cli} kv put greeting hello",
            f"  {cli} kv get greeting",
            f"  {cli} verify {url} --group-document {folder}/group.toml",
            (
                f"  curl --cacert {shlex.quote(event.ca)}"
                f' -H "Authorization: Bearer $(cat {folder}/token)" {url}/v1/group'
            ),
            "",
            "Ctrl-C stops the cluster, which forgets everything that was written.",
        ]
        say_lines("\n".join(lines))


def _shown(command: list[str]) -> str:
    """Return the command as a user would type it here: relative where that is shorter."""
    here = Path.cwd()
    first = Path(command[0])
    if first.is_relative_to(here):
        command = [str(first.relative_to(here)), *command[1:]]
    return shlex.join(command)
