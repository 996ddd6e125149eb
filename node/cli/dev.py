"""``bondstone dev``."""

import asyncio
import json
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.common import DEV_DIRECTORY
from node.dev import DevCluster, bondstone_command
from node.errors import ConfigError


def command(
    nodes: Annotated[int, typer.Option(help="How many nodes.")] = 3,
    api_port: Annotated[int, typer.Option(help="Node i listens on this port + i.")] = 8440,
    directory: Annotated[
        Path, typer.Option("--dir", help="State, logs, keys, configuration.")
    ] = DEV_DIRECTORY,
    pccs: Annotated[bool, typer.Option(help="Serve collateral from a local PCCS, not from files.")] = False,
    authority: Annotated[
        bool, typer.Option(help="Let the group document name an authority, whose key is left in DIR.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON event a line on stdout.")] = False,
) -> None:
    """Run a local cluster of mock TDs until Ctrl-C."""
    emit = _emit_json if as_json else _Printer(directory).emit
    cluster = DevCluster(directory, nodes=nodes, api_port=api_port, emit=emit, pccs=pccs, authority=authority)
    try:
        asyncio.run(_run(cluster))
    except* ConfigError as group:
        raise group.exceptions[0] from None
    emit({"event": "stopped"})


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


def _emit_json(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


class _Printer:
    """Tells a person what happens."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def emit(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "node-started":
                print(f"starting {event['name']} (pid {event['pid']})")
            case "node-exited":
                print(f"{event['name']} (pid {event['pid']}) ended with code {event['code']}")
                if not event["expected"]:
                    print(f"  its log: {event['log']}")
                    print(f"  start it again: {event['restart']}")
            case "ready":
                self._ready(event)
            case "stopped":
                print("stopped")
            case _:
                pass
        sys.stdout.flush()

    def _ready(self, event: dict[str, Any]) -> None:
        from rich.console import Console
        from rich.table import Table

        table = Table(title=f"group {event['group_id'][:16]}… is ready (mock TDs: no hardware trust)")
        for column in ("node", "pid", "api", "bond", "peer id"):
            table.add_column(column, no_wrap=True)
        for node in event["nodes"]:
            table.add_row(
                node["name"], str(node["pid"]), node["api"], node["bond"], node["peer_id"][:16] + "…"
            )
        Console().print(table)
        cli = _shown(bondstone_command())
        url = event["nodes"][0]["api"]
        print(
            f"""
talk to it from another terminal:
  {cli} status
  {cli} kv put greeting hello
  {cli} kv get greeting
  {cli} verify {url} --group-document {self._directory}/group.toml
  curl --cacert {event["ca"]} -H "Authorization: Bearer $(cat {self._directory}/token)" {url}/v1/group

Ctrl-C stops it."""
        )


def _shown(command: list[str]) -> str:
    """Return the command as one would type it here: relative, where that is shorter."""
    here = Path.cwd()
    first = Path(command[0])
    if first.is_relative_to(here):
        command = [str(first.relative_to(here)), *command[1:]]
    return shlex.join(command)
