"""The workload: one node, until SIGTERM. It reports on standard output, one JSON object a line.

``bondstone node run`` is not used here: its parser would take a third of a guest's start.
"""

import gc

# Imports leave few cycles to collect, and under emulation each collection costs as much as ten imports.
gc.disable()

import asyncio  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from datetime import UTC, datetime  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import uvloop  # noqa: E402
from msgspec.structs import replace  # noqa: E402

from attestation.errors import AttestationError  # noqa: E402
from enclave.errors import EnclaveError  # noqa: E402
from enclave.image.config import Profile, require_measured  # noqa: E402
from enclave.image.errors import GuestConfigError  # noqa: E402
from guest import intake  # noqa: E402
from node.config import NodeConfig, NodeFiles, load_node  # noqa: E402
from node.daemon import running  # noqa: E402
from node.errors import NodeError  # noqa: E402
from node.guest import require_for_image  # noqa: E402
from node.machines.loader import Machines  # noqa: E402
from node.process_events import (  # noqa: E402
    ConfigurationRefused,
    GroupDocumentRead,
    NodeStopped,
    ProcessEvent,
    StartRefused,
)
from node.progress import report_progress  # noqa: E402

REFUSED = 2
IMAGE = Path("/etc/bondstone/image.json")


class JsonLines(logging.Formatter):
    """A log record as one JSON object, so that no line of a library looks like one of ours."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"logger": record.name, "level": record.levelname, "message": record.getMessage()}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return _line("log", fields)


def main() -> int:
    """Run the node of a configuration file; return the exit code."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    gc.enable()
    try:
        uvloop.run(_serve(*_checked(load_node(Path(sys.argv[1])))))
    except GuestConfigError as exc:
        report(ConfigurationRefused(exc.reason, exc.message))
        return REFUSED
    except (NodeError, AttestationError, EnclaveError) as exc:
        report(StartRefused(type(exc).__name__, str(exc)))
        return REFUSED
    return 0


def report(event: ProcessEvent) -> None:
    fields = event.fields()
    print(_line(fields.pop("event"), fields), flush=True)


def _checked(files: NodeFiles) -> tuple[NodeFiles, Machines]:
    """Return the files that a guest of this image may run, with its machines: the image measures their code.

    Raises:
        GuestConfigError: MRCONFIGID is set, but not to this group document's digest.
        ConfigError: the document is not for such an image.
    """
    image = json.loads(IMAGE.read_bytes())
    machines = Machines(named=frozenset(image["machines"]))
    measured = intake.mr_config_id()
    require_measured(files.document.mrconfigid, measured)
    require_for_image(files.document, profile=Profile(image["profile"]), machines=machines)
    report(GroupDocumentRead(sha384=files.document.mrconfigid.hex(), measured=any(measured)))
    return NodeFiles(document=files.document, config=_as_started(files.config, measured)), machines


def _as_started(config: NodeConfig, measured: bytes) -> NodeConfig:
    """Make a mock TD report the MRCONFIGID that its host has set, as a real TD does."""
    mock = config.attestation.mock
    if mock is None:
        return config
    mock = replace(mock, mrconfigid=measured.hex())
    return replace(config, attestation=replace(config.attestation, mock=mock))


async def _serve(files: NodeFiles, machines: Machines) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    async with running(files.document, files.config, report, machines) as service:
        progress = loop.create_task(report_progress(service, report))
        await stop.wait()
        progress.cancel()
    report(NodeStopped(files.config.node.name))


def _line(event: str, fields: dict[str, Any]) -> str:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": time, "source": "node", "event": event, **fields})
