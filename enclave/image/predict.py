"""Predicts each event that a boot of given files extends into RTMR[1] and RTMR[2].

Sources: edk2 ``OvmfPkg`` and ``SecurityPkg`` (202411 and newer), Linux 6.9 and newer, systemd-stub
257. Each rule was checked against the log of a boot of the same firmware with a software TPM, and
against logs of real TDs (``docs/deploy.md``).
"""

from dataclasses import dataclass
from enum import StrEnum

from enclave.image.gpt import gpt_event_untrusted
from enclave.image.linux import (
    Edk2,
    direct_load_options,
    initrd_event,
    load_options_event,
    patch_kernel_as_qemu,
)
from enclave.image.pe import Executable, authenticode_sha384, parse_executable_untrusted
from enclave.image.rtmr import (
    CALLING_APPLICATION,
    EXIT_BOOT_SERVICES,
    EXIT_BOOT_SERVICES_DONE,
    SEPARATOR,
    Boot,
    MeasuredEvent,
    event,
    replay,
)
from enclave.image.uki import linux_section, uki_events


class KernelLoading(StrEnum):
    """QEMU's change to the kernel of ``-kernel`` before the firmware reads it."""

    AS_IS = "as-is"
    """A TD on any QEMU that has them, and any guest of QEMU 10 and newer."""
    QEMU_PATCHED = "qemu-patched"
    """An emulated guest of QEMU before 10, or of edk2 before 202502: the setup header is filled in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostShape:
    """The host software's influence on the boot of an image. A TD only needs the defaults."""

    kernel_loading: KernelLoading = KernelLoading.AS_IS
    memory_bytes: int = 2 << 30
    """Only used for a patched kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootPrediction:
    """One way to boot, and its events."""

    boot: Boot
    events: tuple[MeasuredEvent, ...]
    command_line: str
    """The contents of the guest's /proc/cmdline."""

    def of_register(self, register: int) -> tuple[MeasuredEvent, ...]:
        """Return the events of RTMR[``register``], in order."""
        return tuple(item for item in self.events if item.register == register)

    @property
    def rtmr1(self) -> bytes:
        """RTMR[1], 48 bytes."""
        return replay(self.of_register(1))

    @property
    def rtmr2(self) -> bytes:
        """RTMR[2], 48 bytes."""
        return replay(self.of_register(2))


def predict_direct(
    *, kernel: bytes, initrd: bytes, command_line: str, edk2: Edk2, host: HostShape
) -> BootPrediction:
    """Predict ``-kernel vmlinuz -initrd initrd -append CMDLINE``.

    Raises:
        MalformedImageError: the file is not a kernel, or the command line cannot be used.
    """
    seen = kernel
    patched = host.kernel_loading is KernelLoading.QEMU_PATCHED or not edk2.reads_unpatched_kernel
    if patched:
        seen = patch_kernel_as_qemu(kernel, memory_bytes=host.memory_bytes, initrd_bytes=len(initrd))
    options = direct_load_options(command_line, edk2=edk2, initrd=bool(initrd))
    events = [
        _executable_event("kernel", parse_executable_untrusted(seen)),
        event(1, "calling application", CALLING_APPLICATION),
        event(1, "separator", SEPARATOR),
        *_exit_events(),
        load_options_event(options),
    ]
    if initrd:
        events.append(initrd_event(initrd))
    return BootPrediction(boot=Boot.DIRECT, events=tuple(events), command_line=options)


def predict_uki_direct(*, uki: bytes) -> BootPrediction:
    """Predict ``-kernel uki.efi``, without ``-initrd`` and ``-append``.

    Raises:
        MalformedImageError: not a UKI of the kind that we build.
    """
    parsed = parse_executable_untrusted(uki)
    events = (
        _executable_event("UKI", parsed),
        event(1, "calling application", CALLING_APPLICATION),
        event(1, "separator", SEPARATOR),
        _executable_event("kernel inside of the UKI", _kernel_of(parsed)),
        *_exit_events(),
        *uki_events(parsed),
    )
    return BootPrediction(boot=Boot.UKI_DIRECT, events=events, command_line=_command_line(parsed))


def predict_uki_disk(*, uki: bytes, disk: bytes) -> BootPrediction:
    """Predict a boot from a GPT disk with the UKI as its default boot loader.

    Args:
        uki: the file in the disk's system partition.
        disk: at least the disk's first 34 sectors.

    Raises:
        MalformedImageError: not a UKI of the kind that we build, or no GPT.
    """
    parsed = parse_executable_untrusted(uki)
    events = (
        event(1, "calling application", CALLING_APPLICATION),
        event(1, "separator", SEPARATOR),
        event(1, "partition table", gpt_event_untrusted(disk)),
        _executable_event("UKI", parsed),
        _executable_event("kernel inside of the UKI", _kernel_of(parsed)),
        *_exit_events(),
        *uki_events(parsed),
    )
    return BootPrediction(boot=Boot.UKI_DISK, events=events, command_line=_command_line(parsed))


def _executable_event(label: str, executable: Executable) -> MeasuredEvent:
    return MeasuredEvent(register=1, label=label, digest=authenticode_sha384(executable))


def _exit_events() -> tuple[MeasuredEvent, MeasuredEvent]:
    return (
        event(1, "exit boot services", EXIT_BOOT_SERVICES),
        event(1, "exit boot services done", EXIT_BOOT_SERVICES_DONE),
    )


def _kernel_of(uki: Executable) -> Executable:
    return parse_executable_untrusted(linux_section(uki))


def _command_line(uki: Executable) -> str:
    return (uki.contents(".cmdline") or b"").rstrip(b"\0 \n").decode("ascii")
