"""Which bytes of an event's data its digest confirms.

A replay proves digests. Reports of other tools show event *data*, which a host can rewrite at will
if the digest was taken over something else: a boot application's Authenticode hash, a file's
contents, a table in memory. So this module finds the bytes whose SHA-384 is the event's digest.

    type                            digest over                                          source
    EV_SEPARATOR, EV_ACTION,        the whole event                                      PFP 1.06 10.4.1
    EV_S_CRTM_VERSION, EV_EFI_ACTION
    EV_EFI_VARIABLE_DRIVER_CONFIG,  the whole event (UEFI_VARIABLE_DATA)                 PFP 1.06 10.4.1
    EV_EFI_VARIABLE_AUTHORITY
    EV_EFI_GPT_EVENT                the whole event (UEFI_GPT_DATA)                      PFP 1.06 10.4.1
    EV_EFI_VARIABLE_BOOT, _BOOT2    the variable's data only, or the whole event         EDK II Tcg2Dxe
    EV_IPL                          the text, with or without its NUL and without        GRUB, systemd-stub
                                    GRUB's "grub_cmd: " label; or a file's contents
    EV_EVENT_TAG                    the tagged data, the whole event, or something else  Linux EFI stub
    all others                      something outside the log                            PFP 1.06 10.4.1

No digest covers the event's *type*. The part of a label outside the covered bytes is an unproven claim of the
host.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from attestation.eventlog.events import Event, Origin
from attestation.eventlog.runtime import runtime_digest

SEPARATOR_ERROR: Final = b"\x01\0\0\0"
_SEPARATORS: Final = (b"\0\0\0\0", b"\xff\xff\xff\xff", SEPARATOR_ERROR)
# Every log has these digests. An event of another type with one of them is a relabelled separator: it would
# move the boundary between firmware and boot loader without a trace. The error value is not among them,
# because a BootOrder of {0001, 0000} has exactly these bytes.
_BOUNDARY_DIGESTS: Final = frozenset(
    hashlib.sha384(value).digest() for value in _SEPARATORS if value != SEPARATOR_ERROR
)

DSTACK_EVENT_TYPE: Final = 0x0800_0001

_WHOLE_TYPES: Final = frozenset(
    {
        "EV_SEPARATOR",
        "EV_ACTION",
        "EV_S_CRTM_VERSION",
        "EV_EFI_VARIABLE_DRIVER_CONFIG",
        "EV_EFI_VARIABLE_AUTHORITY",
        "EV_EFI_GPT_EVENT",
        "EV_EFI_ACTION",
    }
)
# GRUB 2.06 and later (grub-core/kern/tpm.c and loader/verifiers): label, colon, space, then measured text.
_GRUB_LABELS: Final = (b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ")
_UEFI_VARIABLE_HEAD_BYTES: Final = 32  # GUID, u64 name length in UTF-16 units, u64 data length
_EVENT_TAG_HEAD_BYTES: Final = 8  # u32 tagged event id, u32 size


class Coverage(StrEnum):
    """How an event's digest relates to its data."""

    WHOLE = "whole"  # digest of all of the data
    PART = "part"  # digest of ``covered``; the rest of the data is an unproven label
    OPAQUE = "opaque"  # digest of something that is not in the log
    MISMATCH = "mismatch"  # this type's digest is of its data, and this one is not
    NOT_EXTENDED = "not-extended"  # informative record, in no register


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouched:
    """The bytes that an event's digest confirms.

    Attributes:
        coverage: how digest and data relate.
        covered: the bytes whose SHA-384 is the digest; None unless whole or part.
        rule: which input the digest was found to have, for people.
    """

    coverage: Coverage
    covered: bytes | None
    rule: str


def vouch(event: Event) -> Vouched:
    """Return which bytes of the event its digest confirms. Never raises: MISMATCH is a result."""
    if not event.extends:
        return Vouched(coverage=Coverage.NOT_EXTENDED, covered=None, rule="informative, not extended")
    if event.origin is Origin.RUNTIME:
        return _of_runtime(event)
    if event.origin is Origin.DSTACK and event.type == DSTACK_EVENT_TYPE:
        return _of_dstack(event)
    return _of_firmware(event)


def _of_runtime(event: Event) -> Vouched:
    if event.digest == runtime_digest(event.name, event.data):
        return Vouched(coverage=Coverage.WHOLE, covered=event.data, rule="name and payload")
    return Vouched(coverage=Coverage.MISMATCH, covered=None, rule="name and payload")


def _of_dstack(event: Event) -> Vouched:
    if event.digest == dstack_digest_v1(event.name, event.data):
        return Vouched(coverage=Coverage.WHOLE, covered=event.data, rule="name and payload (V1)")
    return Vouched(coverage=Coverage.MISMATCH, covered=None, rule="name and payload (V1)")


def dstack_digest_v1(name: str, payload: bytes) -> bytes:
    """Return dstack's V1 digest: SHA-384(LE32(type) || ":" || name || ":" || payload).

    The encoding is not injective (a colon may stand in a name), which is why ours is another.
    """
    head = DSTACK_EVENT_TYPE.to_bytes(4, "little")
    return hashlib.sha384(b":".join([head, name.encode(), payload])).digest()


def _of_firmware(event: Event) -> Vouched:
    for rule, covered in _candidates(event):
        if hashlib.sha384(covered).digest() == event.digest:
            whole = covered == event.data
            return Vouched(coverage=Coverage.WHOLE if whole else Coverage.PART, covered=covered, rule=rule)
    if event.type_name in _WHOLE_TYPES or event.digest in _BOUNDARY_DIGESTS:
        return Vouched(coverage=Coverage.MISMATCH, covered=None, rule="the whole event")
    return Vouched(coverage=Coverage.OPAQUE, covered=None, rule="of something not in the log")


def _candidates(event: Event) -> list[tuple[str, bytes]]:
    data = event.data
    name = event.type_name
    if event.digest in _BOUNDARY_DIGESTS and name != "EV_SEPARATOR":
        return []
    if name == "EV_SEPARATOR":
        return [("the whole event", data)] if data in _SEPARATORS else []
    if name in _WHOLE_TYPES:
        return [("the whole event", data)]
    if name in ("EV_EFI_VARIABLE_BOOT", "EV_EFI_VARIABLE_BOOT2"):
        return [*_variable_data(data), ("the whole event", data)]
    if name == "EV_IPL":
        return _ipl(data)
    if name == "EV_EVENT_TAG":
        return [("the tagged data", data[_EVENT_TAG_HEAD_BYTES:]), ("the whole event", data)]
    return []


def _variable_data(data: bytes) -> list[tuple[str, bytes]]:
    if len(data) < _UEFI_VARIABLE_HEAD_BYTES:
        return []
    name_bytes = 2 * int.from_bytes(data[16:24], "little")
    data_bytes = int.from_bytes(data[24:32], "little")
    if _UEFI_VARIABLE_HEAD_BYTES + name_bytes + data_bytes != len(data):
        return []
    return [("the variable's data", data[_UEFI_VARIABLE_HEAD_BYTES + name_bytes :])]


def _ipl(data: bytes) -> list[tuple[str, bytes]]:
    texts = [("the text", data)]
    texts += [
        ("the text after its label", data[len(label) :]) for label in _GRUB_LABELS if data.startswith(label)
    ]
    found = []
    for rule, text in texts:
        found.append((rule, text))
        # One NUL ends a C string, two a UTF-16 one; loaders measure with or without it.
        found += [
            (f"{rule}, without its NUL", text[:-count]) for count in (1, 2) if text.endswith(b"\0" * count)
        ]
        found += [(f"{rule}, with its NUL", text + b"\0" * count) for count in (1, 2)]
    return found
