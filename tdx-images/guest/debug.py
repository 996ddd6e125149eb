"""What a debug image does beyond a production one."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from enclave.errors import EnclaveError
from enclave.tsm import TsmAttester

_ACPI = ("etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables")
_FW_CFG = Path("/sys/firmware/qemu_fw_cfg/by_name")


def before_node(log: Callable[..., None]) -> None:
    """Print the digests of the machine's ACPI blobs, and whether configfs-tsm gives quotes here."""
    for name in _ACPI:
        blob = _FW_CFG / name / "raw"
        if blob.exists():
            data = blob.read_bytes()
            log("acpi-blob", name=name, size=len(data), sha384=hashlib.sha384(data).hexdigest())
    report_data = os.urandom(64)
    try:
        quote = TsmAttester().quote(report_data)
    except EnclaveError as exc:
        log("tsm-quote", error=type(exc).__name__, message=str(exc))
    else:
        log("tsm-quote", size=len(quote), report_data=report_data in quote)
