"""The byte layout of DCAP quotes, versions 3, 4 and 5: one table per structure, for both directions.

Integers are little-endian unsigned; ECDSA values are raw big-endian. Source: A1 to A3 (Intel TDX
DCAP Quote Generation Library, appendix A).
"""

import struct
from dataclasses import dataclass
from typing import Final

TEE_SGX: Final = 0x00000000
TEE_TDX: Final = 0x00000081
KEY_TYPE_P256: Final = 2
KEY_TYPE_P384: Final = 3
QE_VENDOR_INTEL: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

BODY_SGX: Final = 1
BODY_TD_10: Final = 2
BODY_TD_15: Final = 3
BODY_TD_15_EXTENDED: Final = 4

CERTIFICATION_PPID_PLAIN: Final = 1
CERTIFICATION_PPID_RSA_2048: Final = 2
CERTIFICATION_PPID_RSA_3072: Final = 3
CERTIFICATION_PCK_LEAF: Final = 4
CERTIFICATION_PCK_CHAIN: Final = 5
CERTIFICATION_QE_REPORT: Final = 6

HEADER_STRUCT: Final = struct.Struct("<HHIHH16s20s")
ENCLAVE_STRUCT: Final = struct.Struct("<16sI28s16s32s32s32s96sHH60s64s")
TD_10_STRUCT: Final = struct.Struct("<16s48s48s8sQQ48s48s48s48s48s48s48s48s64s")
TD_15_STRUCT: Final = struct.Struct("<16s48s")
TD_15_EXTENDED_STRUCT: Final = struct.Struct("<B32s48s48sQ16s16s12s48sQ")
DESCRIPTOR: Final = struct.Struct("<HI")
U16: Final = struct.Struct("<H")
U32: Final = struct.Struct("<I")

BODY_BYTES: Final = {
    BODY_SGX: ENCLAVE_STRUCT.size,
    BODY_TD_10: TD_10_STRUCT.size,
    BODY_TD_15: TD_10_STRUCT.size + TD_15_STRUCT.size,
    BODY_TD_15_EXTENDED: TD_10_STRUCT.size + TD_15_STRUCT.size + TD_15_EXTENDED_STRUCT.size,
}
KEY_BYTES: Final = 64
SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteHeader:
    """The first 48 bytes. ``reserved`` has the QE and PCE SVN copies in version 3, otherwise zero."""

    version: int
    attestation_key_type: int = KEY_TYPE_P256
    tee_type: int
    reserved: tuple[int, int] = (0, 0)
    qe_vendor_id: bytes = QE_VENDOR_INTEL
    user_data: bytes = bytes(20)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveReport:
    """An SGX report of 384 bytes: the quoting enclave's, or the body of an SGX quote."""

    cpu_svn: bytes
    misc_select: int
    reserved_1: bytes = bytes(28)
    attributes: bytes
    mr_enclave: bytes
    reserved_2: bytes = bytes(32)
    mr_signer: bytes
    reserved_3: bytes = bytes(96)
    isv_prod_id: int
    isv_svn: int
    reserved_4: bytes = bytes(60)
    report_data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TDReportExtension:
    """The fields that body type 4 adds to a TD report 1.5."""

    vm_id: int
    td_id: bytes
    device_info_hash: bytes
    initial_service_td_hash: bytes
    initial_service_td_attributes: int
    initial_cpu_svn: bytes
    initial_tee_tcb_svn: bytes
    initial_tee_fmspc: bytes
    current_service_td_hash: bytes
    current_service_td_attributes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TDReport:
    """A TD report body. Attribute fields are integers; measurements are 48 bytes.

    Attributes:
        tee_tcb_svn: SVNs at the TD's launch, 16 bytes.
        tee_tcb_svn_2: SVNs of the module that runs now, 16 bytes; None in report 1.0.
        mr_service_td: 48 bytes, zero if no service TD is bound; None in report 1.0.
        extension: only in body type 4.
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: int
    xfam: int
    mrtd: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn_2: bytes | None = None
    mr_service_td: bytes | None = None
    extension: TDReportExtension | None = None

    @property
    def body_type(self) -> int:
        if self.extension is not None:
            return BODY_TD_15_EXTENDED
        return BODY_TD_10 if self.tee_tcb_svn_2 is None else BODY_TD_15


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureData:
    """The signature data after the signed range (A3)."""

    signature: bytes
    attestation_key: bytes
    qe_report_bytes: bytes
    qe_report: EnclaveReport
    qe_report_signature: bytes
    qe_auth_data: bytes
    certification_type: int
    certification_data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A parsed quote; nothing in it is verified.

    Attributes:
        signed: the bytes that the attestation key signed.
        padding_bytes: how many unsigned bytes follow. Never use a hash of the blob as its identity.
    """

    header: QuoteHeader
    body: TDReport | EnclaveReport
    body_type: int
    signed: bytes
    signature_data: SignatureData
    padding_bytes: int

    @property
    def version(self) -> int:
        return self.header.version
