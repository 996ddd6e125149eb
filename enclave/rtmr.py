"""Measurement registers in sysfs (Linux 6.16 and newer; A13.2).

RTMR0 and RTMR1 belong to firmware and boot loader; the running system extends RTMR2 and RTMR3. The program
that extends a register keeps the log, because no CCEL contains these events.
"""

import errno
import os
from pathlib import Path
from typing import Final

from attestation.eventlog.events import extend
from enclave.errors import EnclaveError, NotATrustDomainError

MEASUREMENTS_ROOT: Final = Path("/sys/devices/virtual/misc/tdx_guest/measurements")
REGISTER_BYTES: Final = 48
EXTENDABLE: Final = (2, 3)

_FIXED: Final = {
    "mrtd": "mrtd:sha384",
    "mrconfigid": "mrconfigid",
    "mrowner": "mrowner",
    "mrownerconfig": "mrownerconfig",
}


class RegisterError(EnclaveError):
    """A measurement register is there, but an operation on it failed."""


class MeasurementRegisters:
    """The TD's registers, as its kernel shows them.

    Args:
        root: where the kernel has them.
    """

    def __init__(self, root: Path = MEASUREMENTS_ROOT) -> None:
        self._root = root

    @property
    def available(self) -> bool:
        """True if this kernel shows them. Without them a TD can quote, but not extend."""
        return (self._root / _FIXED["mrtd"]).exists()

    def fixed(self, name: str) -> bytes:
        """Return MRTD, MRCONFIGID, MROWNER or MROWNERCONFIG (by its lower-case name), 48 bytes.

        Raises:
            NotATrustDomainError: there are no registers here.
            RegisterError: it cannot be read, or has another size.
        """
        return self._read(_FIXED[name])

    def rtmr(self, index: int) -> bytes:
        """Return RTMR[index], 48 bytes.

        Raises:
            NotATrustDomainError, RegisterError: as :meth:`fixed`.
        """
        return self._read(_rtmr_name(index))

    def extend(self, index: int, digest: bytes) -> bytes:
        """RTMR[index] := SHA-384(RTMR[index] || digest). Return the new value, read back.

        Args:
            index: 2 or 3.
            digest: 48 bytes.

        Raises:
            ValueError: another register, or another length.
            NotATrustDomainError: there are no registers here.
            RegisterError: the kernel refused, or another process extended at the same time, so that a log
                with our digest alone would not replay.
        """
        if index not in EXTENDABLE:
            raise ValueError(f"RTMR{index} cannot be extended here, only RTMR2 and RTMR3 can")
        if len(digest) != REGISTER_BYTES:
            raise ValueError(f"an RTMR is extended with {REGISTER_BYTES} bytes, not {len(digest)}")
        name = _rtmr_name(index)
        before = self._read(name)
        try:
            descriptor = os.open(self._root / name, os.O_WRONLY | os.O_CLOEXEC)
            try:
                written = os.write(descriptor, digest)
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise self._judged(name, exc) from exc
        after = self._read(name)
        if written != REGISTER_BYTES or after != extend(before, digest):
            raise RegisterError(
                f"RTMR{index} has another value than one extension gives; is another process extending it?"
            )
        return after

    def _read(self, name: str) -> bytes:
        try:
            with (self._root / name).open("rb", buffering=0) as file:
                data = file.read(REGISTER_BYTES + 1)
        except OSError as exc:
            raise self._judged(name, exc) from exc
        if data is None or len(data) != REGISTER_BYTES:
            raise RegisterError(f"{self._root / name} does not hold {REGISTER_BYTES} bytes")
        return data

    def _judged(self, name: str, exc: OSError) -> EnclaveError:
        if exc.errno in (errno.ENOENT, errno.ENXIO):
            return NotATrustDomainError(
                f"{self._root / name} is not there: this machine is not a TDX guest, or its kernel is older "
                "than 6.16 and shows no measurement registers"
            )
        return RegisterError(f"{self._root / name}: {exc.strerror}")


def _rtmr_name(index: int) -> str:
    if not 0 <= index < 4:
        raise ValueError(f"there is no RTMR{index}")
    return f"rtmr{index}:sha384"
