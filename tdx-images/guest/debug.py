"""The functions that only a debug image has."""

import os
from collections.abc import Callable
from pathlib import Path

from enclave.errors import EnclaveError
from enclave.tsm import TsmAttester

_FW_CFG = Path("/sys/firmware/qemu_fw_cfg/by_name")
_ACPI = {"acpi-loader": "etc/table-loader", "acpi-rsdp": "etc/acpi/rsdp", "acpi-tables": "etc/acpi/tables"}


def before_node(log: Callable[..., None], print_blob: Callable[[str, bytes], None]) -> None:
    """Print the machine's ACPI blobs, for RTMR[0], and whether configfs-tsm gives quotes here."""
    for kind, name in _ACPI.items():
        blob = _FW_CFG / name / "raw"
        if blob.exists():
            print_blob(kind, blob.read_bytes())
    report_data = os.urandom(64)
    try:
        quote = TsmAttester().quote(report_data)
    except EnclaveError as exc:
        log("tsm-quote", error=type(exc).__name__, message=str(exc))
    else:
        log("tsm-quote", size=len(quote), report_data=report_data in quote)
