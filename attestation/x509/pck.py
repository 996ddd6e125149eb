"""The SGX extension of a PCK certificate (Intel PCK certificate profile 1.5; A4)."""

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

from attestation.encoding import der
from attestation.errors import MalformedError

SGX_EXTENSION_OID: Final = "1.2.840.113741.1.13.1"
EXTENSION_BYTES_MAX: Final = 4096
PARSED_MAX: Final = 64

# 1.2.840.113741.1.13.1 in DER: every id in the extension starts with it.
_ARC: Final = bytes.fromhex("2a864886f84d010d01")
_PPID, _TCB, _PCEID, _FMSPC, _SGX_TYPE, _INSTANCE, _CONFIGURATION = (
    _ARC + bytes([number]) for number in range(1, 8)
)
_TCB_COMPONENT: Final = tuple(_TCB + bytes([number]) for number in range(1, 17))
_PCESVN: Final = _TCB + bytes([17])
_CPUSVN: Final = _TCB + bytes([18])
_DYNAMIC, _CACHED_KEYS, _SMT = (_CONFIGURATION + bytes([number]) for number in range(1, 4))


class SgxType(IntEnum):
    """How the platform protects enclave memory."""

    STANDARD = 0
    SCALABLE = 1
    SCALABLE_WITH_INTEGRITY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformConfiguration:
    """Flags of a multi-package platform; None where the certificate does not have them."""

    dynamic_platform: bool | None
    cached_keys: bool | None
    smt_enabled: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PckExtension:
    """The facts that Intel certifies about a platform's PCK.

    Attributes:
        tcb_components: SGX TCB component SVNs 1 to 16.
        cpu_svn: 16 bytes; informative, the components decide.
        platform_instance_id, configuration: only from the Platform CA.
    """

    ppid: bytes
    tcb_components: tuple[int, ...]
    pce_svn: int
    cpu_svn: bytes
    pce_id: bytes
    fmspc: bytes
    sgx_type: SgxType
    platform_instance_id: bytes | None
    configuration: PlatformConfiguration | None


@lru_cache(maxsize=PARSED_MAX)
def parse_pck_extension_untrusted(data: bytes) -> PckExtension:
    """Parse the value of the extension with OID 1.2.840.113741.1.13.1. A pure function of its bytes.

    Unknown members are ignored; duplicates and missing ones are refused.

    Raises:
        MalformedError: ``pck-extension-malformed``.
    """
    if len(data) > EXTENSION_BYTES_MAX:
        raise _malformed(f"{len(data)} bytes, at most {EXTENSION_BYTES_MAX}")
    try:
        return _parse(data)
    except MalformedError as exc:
        if exc.reason != "der-malformed":
            raise
        raise _malformed(exc.message) from exc


def _malformed(text: str) -> MalformedError:
    return MalformedError("pck-extension-malformed", f"the PCK certificate's SGX extension: {text}")


def _take(members: der.Members, oid: bytes, tag: int, name: str) -> bytes:
    found = members.get(oid)
    if found is None:
        raise _malformed(f"{name} is missing")
    if found[0] != tag:
        raise _malformed(f"{name} has DER tag {found[0]:#04x}, expected {tag:#04x}")
    return found[1]


def _octets(members: der.Members, oid: bytes, size: int, name: str) -> bytes:
    value = _take(members, oid, der.OCTET_STRING, name)
    if len(value) != size:
        raise _malformed(f"{name} has {len(value)} bytes, expected {size}")
    return value


def _parse(data: bytes) -> PckExtension:
    members = der.members_untrusted(der.only_untrusted(data, der.SEQUENCE))
    tcb = der.members_untrusted(_take(members, _TCB, der.SEQUENCE, "TCB"))
    components = tuple(
        der.unsigned_untrusted(_take(tcb, oid, der.INTEGER, f"TCB component {number}"), 255)
        for number, oid in enumerate(_TCB_COMPONENT, start=1)
    )
    sgx_type = der.unsigned_untrusted(_take(members, _SGX_TYPE, der.ENUMERATED, "SGX type"), max(SgxType))
    return PckExtension(
        ppid=_octets(members, _PPID, 16, "PPID"),
        tcb_components=components,
        pce_svn=der.unsigned_untrusted(_take(tcb, _PCESVN, der.INTEGER, "PCESVN"), 0xFFFF),
        cpu_svn=_octets(tcb, _CPUSVN, 16, "CPUSVN"),
        pce_id=_octets(members, _PCEID, 2, "PCEID"),
        fmspc=_octets(members, _FMSPC, 6, "FMSPC"),
        sgx_type=SgxType(sgx_type),
        platform_instance_id=(
            _octets(members, _INSTANCE, 16, "platform instance id") if _INSTANCE in members else None
        ),
        configuration=_configuration(members) if _CONFIGURATION in members else None,
    )


def _configuration(members: der.Members) -> PlatformConfiguration:
    flags = der.members_untrusted(_take(members, _CONFIGURATION, der.SEQUENCE, "configuration"))
    return PlatformConfiguration(
        dynamic_platform=_flag(flags, _DYNAMIC, "dynamic platform"),
        cached_keys=_flag(flags, _CACHED_KEYS, "cached keys"),
        smt_enabled=_flag(flags, _SMT, "SMT enabled"),
    )


def _flag(flags: der.Members, oid: bytes, name: str) -> bool | None:
    if oid not in flags:
        return None
    value = _take(flags, oid, der.BOOLEAN, name)
    if value not in {b"\x00", b"\xff"}:
        raise _malformed(f"{name} is not a DER BOOLEAN")
    return value == b"\xff"
