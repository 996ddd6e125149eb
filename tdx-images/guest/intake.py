"""Where the configuration comes from, and what this guest is: fw_cfg, a disk, the TDREPORT."""

import fcntl
import os
from pathlib import Path

from enclave.image.config import (
    CONFIG_BYTES_MAX,
    DISK_HEADER_BYTES,
    MR_CONFIG_ID_BYTES,
    config_disk_length_untrusted,
)
from enclave.image.errors import GuestConfigError

FW_CFG = Path("/sys/firmware/qemu_fw_cfg/by_name/opt/bondstone")
BLOCK_DEVICES = Path("/sys/block")
TDX_GUEST = Path("/dev/tdx_guest")

# linux/tdx-guest.h: _IOWR('T', 1, struct tdx_report_req { u8 reportdata[64]; u8 tdreport[1024]; })
_TDX_CMD_GET_REPORT0 = 0xC4405401
_REPORT_DATA_BYTES, _TDREPORT_BYTES = 64, 1024
# TDREPORT_STRUCT: TDINFO starts at 512; ATTRIBUTES 8, XFAM 8, MRTD 48, then MRCONFIGID (TDX module ABI).
_MR_CONFIG_ID_OFFSET = 512 + 8 + 8 + 48


def read_config() -> tuple[bytes, str]:
    """Return the configuration document and where it came from. fw_cfg has priority over disks.

    Raises:
        GuestConfigError: the host gave no document, it is too large, or several disks carry one.
    """
    blob = FW_CFG / "config" / "raw"
    if blob.exists():
        return _read_bounded(blob), "fw_cfg"
    found = [
        (data, device)
        for device in sorted(os.listdir(BLOCK_DEVICES))
        if (data := _read_disk(Path("/dev") / device)) is not None
    ]
    if len(found) > 1:
        raise GuestConfigError("config-ambiguous", f"{len(found)} disks carry a configuration")
    if not found:
        raise GuestConfigError(
            "config-absent",
            "the host gave no configuration: pass -fw_cfg name=opt/bondstone/config,file=FILE "
            "or a configuration disk",
        )
    return found[0]


def is_trust_domain() -> bool:
    return TDX_GUEST.exists()


def mr_config_id() -> bytes:
    """Return MRCONFIGID: of the TDREPORT in a TD; in an emulated guest, the value that the host gives."""
    if is_trust_domain():
        request = bytearray(_REPORT_DATA_BYTES + _TDREPORT_BYTES)
        with TDX_GUEST.open("rb") as device:
            fcntl.ioctl(device, _TDX_CMD_GET_REPORT0, request)
        start = _REPORT_DATA_BYTES + _MR_CONFIG_ID_OFFSET
        return bytes(request[start : start + MR_CONFIG_ID_BYTES])
    emulated = FW_CFG / "mrconfigid" / "raw"
    if not emulated.exists():
        return bytes(MR_CONFIG_ID_BYTES)
    return _read_bounded(emulated)


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(CONFIG_BYTES_MAX + 1)
    if len(data) > CONFIG_BYTES_MAX:
        raise GuestConfigError("config-too-large", f"{path.name}: more than {CONFIG_BYTES_MAX} bytes")
    return data


def _read_disk(device: Path) -> bytes | None:
    try:
        with device.open("rb") as disk:
            length = config_disk_length_untrusted(disk.read(DISK_HEADER_BYTES))
            if length is None:
                return None
            data = disk.read(length)
    except OSError:
        return None  # no medium, or not readable: it carries nothing
    if len(data) != length:
        raise GuestConfigError("config-truncated", f"{device} ends inside of its configuration")
    return data
