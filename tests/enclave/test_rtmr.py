"""Measurement registers in sysfs, on a directory that behaves as the kernel's does."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from enclave import rtmr
from enclave.errors import NotATrustDomainError
from enclave.rtmr import MeasurementRegisters, RegisterError

DIGEST = b"\x05" * 48


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel's directory. Writing 48 bytes to an RTMR extends it, anything else is EINVAL."""
    for name in ("mrconfigid", "mrowner", "mrownerconfig"):
        (tmp_path / name).write_bytes(name.encode().ljust(48, b"\0"))
    (tmp_path / "mrtd:sha384").write_bytes(b"\x01" * 48)
    for index in range(4):
        (tmp_path / f"rtmr{index}:sha384").write_bytes(bytes(48))
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.parent != tmp_path:
            return real(descriptor, data)
        if len(data) != 48:
            raise OSError(22, "Invalid argument")
        path.write_bytes(hashlib.sha384(path.read_bytes() + data).digest())
        return len(data)

    monkeypatch.setattr(os, "write", write)
    return tmp_path


def test_registers_are_read_as_they_are(root: Path) -> None:
    registers = MeasurementRegisters(root)

    assert registers.available
    assert registers.fixed("mrtd") == b"\x01" * 48
    assert registers.fixed("mrconfigid") == b"mrconfigid".ljust(48, b"\0")
    assert registers.rtmr(3) == bytes(48)


@pytest.mark.parametrize("index", [2, 3])
def test_extending_is_hashing_old_value_and_digest(root: Path, index: int) -> None:
    registers = MeasurementRegisters(root)
    once = hashlib.sha384(bytes(48) + DIGEST).digest()

    assert registers.extend(index, DIGEST) == once
    assert registers.extend(index, DIGEST) == hashlib.sha384(once + DIGEST).digest()
    assert registers.rtmr(5 - index) == bytes(48)


def test_the_registers_of_firmware_and_loader_cannot_be_extended(root: Path) -> None:
    for index in (-1, 0, 1, 4):
        with pytest.raises(ValueError, match="cannot be extended here"):
            MeasurementRegisters(root).extend(index, DIGEST)
    with pytest.raises(ValueError, match="RTMR4"):
        MeasurementRegisters(root).rtmr(4)


@pytest.mark.parametrize("size", [0, 47, 49])
def test_a_digest_has_48_bytes(root: Path, size: int) -> None:
    with pytest.raises(ValueError, match="48"):
        MeasurementRegisters(root).extend(3, bytes(size))


def test_a_concurrent_extension_is_noticed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def twice(descriptor: int, data: bytes) -> int:
        write(descriptor, b"\x66" * 48)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", twice)

    with pytest.raises(RegisterError, match="another process"):
        MeasurementRegisters(root).extend(3, DIGEST)


def test_an_extension_that_did_nothing_is_noticed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", lambda _fd, data: len(data))

    with pytest.raises(RegisterError):
        MeasurementRegisters(root).extend(3, DIGEST)


def test_a_kernel_that_refuses_is_reported(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_fd: int, _data: bytes) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "write", refuse)

    with pytest.raises(RegisterError, match="Input/output"):
        MeasurementRegisters(root).extend(3, DIGEST)


def test_a_register_of_another_size_is_refused(root: Path) -> None:
    (root / "mrtd:sha384").write_bytes(bytes(49))

    with pytest.raises(RegisterError, match="48 bytes"):
        MeasurementRegisters(root).fixed("mrtd")


def test_their_absence_is_named_with_the_kernel_that_has_them(tmp_path: Path) -> None:
    registers = MeasurementRegisters(tmp_path / "measurements")
    asks: list[Any] = [
        lambda: registers.fixed("mrtd"),
        lambda: registers.rtmr(0),
        lambda: registers.extend(3, DIGEST),
    ]
    for ask in asks:
        with pytest.raises(NotATrustDomainError, match=r"6\.16"):
            ask()

    assert not registers.available
    assert Path("/sys/devices/virtual/misc/tdx_guest/measurements") == rtmr.MEASUREMENTS_ROOT
