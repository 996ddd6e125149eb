"""The byte layout of DCAP quotes, versions 3, 4 and 5, in both directions.

One table per structure serves the parser and the encoder. Integers are little-endian unsigned; ECDSA values
are raw big-endian. Layout: ATTESTATION.md 1 to 3 (Intel TDX DCAP Quote Generation Library, appendix A).
"""

import struct
from dataclasses import dataclass
from typing import Final, NoReturn

from attestation.errors import MalformedError

QUOTE_BYTES_MAX: Final = 128 * 1024
"""Far above any quote (5 to 8 kB, 32 KiB through configfs-tsm), far below what could hurt."""

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

_HEADER: Final = struct.Struct("<HHIHH16s20s")
_ENCLAVE: Final = struct.Struct("<16sI28s16s32s32s32s96sHH60s64s")
_TD_10: Final = struct.Struct("<16s48s48s8sQQ48s48s48s48s48s48s48s48s64s")
_TD_15: Final = struct.Struct("<16s48s")
_TD_15_EXTENDED: Final = struct.Struct("<B32s48s48sQ16s16s12s48sQ")
_DESCRIPTOR: Final = struct.Struct("<HI")
_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")

_BODY_BYTES: Final = {
    BODY_SGX: _ENCLAVE.size,
    BODY_TD_10: _TD_10.size,
    BODY_TD_15: _TD_10.size + _TD_15.size,
    BODY_TD_15_EXTENDED: _TD_10.size + _TD_15.size + _TD_15_EXTENDED.size,
}
_CBOR_TAG_HEADS: Final = (b"\xd2", b"\xd8", b"\xd9", b"\x84")
_KEY_BYTES: Final = 64
_SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteHeader:
    """The first 48 bytes. ``reserved`` are the QE and PCE SVN copies of version 3, else zero."""

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
    """What body type 4 adds to a TD report 1.5."""

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
    """A TD report body. Attribute words are integers; measurements are 48 bytes.

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
    """What follows the signed range (ATTESTATION.md 3)."""

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


# ---- decoding ---------------------------------------------------------------------------------------


def parse_quote_untrusted(data: bytes) -> Quote:
    """Parse a quote of version 3, 4 or 5.

    Raises:
        MalformedError: not a quote, or of a format that is refused by name.
    """
    if len(data) > QUOTE_BYTES_MAX:
        raise MalformedError("quote-too-large", f"a quote of {len(data)} bytes, at most {QUOTE_BYTES_MAX}")
    header = _parse_header(data)
    body_type, body_start = _locate_body(data, header)
    body_end = body_start + _BODY_BYTES[body_type]
    if len(data) < body_end + _U32.size:
        _truncated("the body", body_end + _U32.size, len(data))
    body = parse_body_untrusted(data[body_start:body_end], body_type)
    (length,) = _U32.unpack_from(data, body_end)
    start = body_end + _U32.size
    # Bounded by what is there, before a single byte of it is copied.
    if length > len(data) - start:
        _truncated("the signature data", start + length, len(data))
    signature_data = _parse_signature_data(data[start : start + length], header.version)
    return Quote(
        header=header,
        body=body,
        body_type=body_type,
        signed=data[:body_end],
        signature_data=signature_data,
        padding_bytes=len(data) - start - length,
    )


def _truncated(what: str, expected: int, actual: int) -> NoReturn:
    raise MalformedError(
        "quote-truncated",
        f"the quote ends within {what}: {expected} bytes needed, {actual} present",
        step="1",
        values={"expected_bytes": expected, "actual_bytes": actual},
    )


def _parse_header(data: bytes) -> QuoteHeader:
    if len(data) < _U16.size:
        _truncated("the header", _HEADER.size, len(data))
    (version,) = _U16.unpack_from(data)
    if version not in {3, 4, 5}:
        # Kernels may hand out a CBOR Web Token where the platform attests by DICE (ATTESTATION.md 13.1).
        if data.startswith(_CBOR_TAG_HEADS):
            raise MalformedError(
                "evidence-dice-unsupported",
                "this looks like a CBOR Web Token (DICE); only DCAP quotes are supported",
                step="1",
            )
        raise MalformedError(
            "quote-version-unsupported",
            f"quote version {version} is not supported (3, 4 and 5 are known)",
            step="1",
            values={"version": version},
        )
    if len(data) < _HEADER.size:
        _truncated("the header", _HEADER.size, len(data))
    _, key_type, tee_type, reserved_1, reserved_2, vendor, user_data = _HEADER.unpack_from(data)
    if key_type == KEY_TYPE_P384:
        raise MalformedError(
            "attestation-key-p384-unsupported",
            "the attestation key is ECDSA P-384, which no quoting enclave is known to emit",
            step="2",
        )
    if key_type != KEY_TYPE_P256:
        raise MalformedError(
            "attestation-key-type-unsupported",
            f"attestation key type {key_type}; only 2 (ECDSA P-256) is supported",
            step="2",
            values={"attestation_key_type": key_type},
        )
    if tee_type not in {TEE_SGX, TEE_TDX} or (version == 3 and tee_type != TEE_SGX):
        raise MalformedError(
            "quote-tee-type",
            f"TEE type {tee_type:#010x} does not exist in quote version {version}",
            step="2",
            values={"tee_type": tee_type, "version": version},
        )
    if vendor != QE_VENDOR_INTEL:
        raise MalformedError(
            "quote-qe-vendor",
            "the quoting enclave's vendor id is not Intel's",
            step="2",
            values={"expected": QE_VENDOR_INTEL.hex(), "actual": vendor.hex()},
        )
    return QuoteHeader(
        version=version,
        attestation_key_type=key_type,
        tee_type=tee_type,
        reserved=(reserved_1, reserved_2),
        qe_vendor_id=vendor,
        user_data=user_data,
    )


def _locate_body(data: bytes, header: QuoteHeader) -> tuple[int, int]:
    """Return the body's type and offset (ATTESTATION.md 1.2)."""
    if header.version != 5:
        return (BODY_TD_10 if header.tee_type == TEE_TDX else BODY_SGX), _HEADER.size
    start = _HEADER.size + _DESCRIPTOR.size
    if len(data) < start:
        _truncated("the body descriptor", start, len(data))
    body_type, size = _DESCRIPTOR.unpack_from(data, _HEADER.size)
    if body_type not in _BODY_BYTES:
        raise MalformedError(
            "quote-body-type-unsupported",
            f"quote body type {body_type} is not supported (1 to 4 are known)",
            step="2",
            values={"body_type": body_type},
        )
    if size != _BODY_BYTES[body_type]:
        raise MalformedError(
            "quote-body-size",
            f"body type {body_type} has {_BODY_BYTES[body_type]} bytes, the quote says {size}",
            step="2",
            values={"expected": _BODY_BYTES[body_type], "actual": size},
        )
    if (body_type == BODY_SGX) != (header.tee_type == TEE_SGX):
        raise MalformedError(
            "quote-tee-type",
            f"body type {body_type} does not belong to TEE type {header.tee_type:#010x}",
            step="2",
            values={"tee_type": header.tee_type, "body_type": body_type},
        )
    return body_type, start


def parse_body_untrusted(data: bytes, body_type: int) -> TDReport | EnclaveReport:
    """Parse a body of exactly the bytes that its type has.

    Raises:
        MalformedError: another length.
    """
    if len(data) != _BODY_BYTES[body_type]:
        raise MalformedError("quote-body-size", f"a body of {len(data)} bytes, type {body_type}", step="2")
    if body_type == BODY_SGX:
        return _parse_enclave_report(data)
    (
        tee_tcb_svn, mr_seam, mr_signer_seam, seam_attributes, td_attributes, xfam, mrtd,
        mr_config_id, mr_owner, mr_owner_config, rtmr0, rtmr1, rtmr2, rtmr3, report_data,
    ) = _TD_10.unpack_from(data)  # fmt: skip
    tee_tcb_svn_2 = mr_service_td = extension = None
    if body_type != BODY_TD_10:
        tee_tcb_svn_2, mr_service_td = _TD_15.unpack_from(data, _TD_10.size)
    if body_type == BODY_TD_15_EXTENDED:
        extension = TDReportExtension(
            **dict(
                zip(
                    TDReportExtension.__slots__,
                    _TD_15_EXTENDED.unpack_from(data, _TD_10.size + _TD_15.size),
                    strict=True,
                )
            )
        )
    return TDReport(
        tee_tcb_svn=tee_tcb_svn,
        mr_seam=mr_seam,
        mr_signer_seam=mr_signer_seam,
        seam_attributes=seam_attributes,
        td_attributes=td_attributes,
        xfam=xfam,
        mrtd=mrtd,
        mr_config_id=mr_config_id,
        mr_owner=mr_owner,
        mr_owner_config=mr_owner_config,
        rtmrs=(rtmr0, rtmr1, rtmr2, rtmr3),
        report_data=report_data,
        tee_tcb_svn_2=tee_tcb_svn_2,
        mr_service_td=mr_service_td,
        extension=extension,
    )


def _parse_enclave_report(data: bytes) -> EnclaveReport:
    return EnclaveReport(
        **dict(zip(EnclaveReport.__slots__, _ENCLAVE.unpack(data), strict=True)),
    )


def _parse_signature_data(data: bytes, version: int) -> SignatureData:
    """Parse the signature data. Every size must be consumed exactly (ATTESTATION.md 3)."""
    start = _SIGNATURE_BYTES + _KEY_BYTES
    block = data[start:]
    if version != 3:
        if len(block) < _DESCRIPTOR.size:
            _truncated("the signature data", start + _DESCRIPTOR.size, len(data))
        outer_type, size = _DESCRIPTOR.unpack_from(block)
        # The outer type is not signed; whoever changed it is not a quoting enclave.
        if outer_type != CERTIFICATION_QE_REPORT:
            raise MalformedError(
                "quote-certification-type",
                f"outer certification data of type {outer_type}, expected 6",
                step="1",
                values={"expected": CERTIFICATION_QE_REPORT, "actual": outer_type},
            )
        block = _exactly(block[_DESCRIPTOR.size :], size)
    auth_start = _ENCLAVE.size + _SIGNATURE_BYTES + _U16.size
    if len(block) < auth_start:
        _truncated("the QE report", auth_start, len(block))
    (auth_bytes,) = _U16.unpack_from(block, auth_start - _U16.size)
    auth_end = auth_start + auth_bytes
    if len(block) < auth_end + _DESCRIPTOR.size:
        _truncated("the QE authentication data", auth_end + _DESCRIPTOR.size, len(block))
    certification_type, size = _DESCRIPTOR.unpack_from(block, auth_end)
    return SignatureData(
        signature=data[:_SIGNATURE_BYTES],
        attestation_key=data[_SIGNATURE_BYTES:start],
        qe_report_bytes=block[: _ENCLAVE.size],
        qe_report=_parse_enclave_report(block[: _ENCLAVE.size]),
        qe_report_signature=block[_ENCLAVE.size : _ENCLAVE.size + _SIGNATURE_BYTES],
        qe_auth_data=block[auth_start:auth_end],
        certification_type=certification_type,
        certification_data=_exactly(block[auth_end + _DESCRIPTOR.size :], size),
    )


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) < size:
        _truncated("the certification data", size, len(data))
    if len(data) > size:
        # Unsigned bytes inside a signed structure's length: harmless, and never made by a real QE.
        raise MalformedError(
            "quote-signature-data-trailing",
            f"{len(data) - size} bytes follow the certification data inside the signature data",
            step="1",
        )
    return data


# ---- encoding ---------------------------------------------------------------------------------------


def encode_header(header: QuoteHeader) -> bytes:
    """Return the 48 bytes of a header."""
    return _HEADER.pack(
        header.version,
        header.attestation_key_type,
        header.tee_type,
        *header.reserved,
        header.qe_vendor_id,
        header.user_data,
    )


def encode_enclave_report(report: EnclaveReport) -> bytes:
    """Return the 384 bytes of an SGX report."""
    return _ENCLAVE.pack(*(getattr(report, name) for name in EnclaveReport.__slots__))


def encode_td_report(report: TDReport) -> bytes:
    """Return the 584, 648 or 885 bytes of a TD report body, by what it holds."""
    out = _TD_10.pack(
        report.tee_tcb_svn,
        report.mr_seam,
        report.mr_signer_seam,
        report.seam_attributes,
        report.td_attributes,
        report.xfam,
        report.mrtd,
        report.mr_config_id,
        report.mr_owner,
        report.mr_owner_config,
        *report.rtmrs,
        report.report_data,
    )
    if report.tee_tcb_svn_2 is not None:
        assert report.mr_service_td is not None, "report 1.5 has both fields"
        out += _TD_15.pack(report.tee_tcb_svn_2, report.mr_service_td)
    if report.extension is not None:
        assert report.tee_tcb_svn_2 is not None, "body type 4 contains report 1.5"
        fields = (getattr(report.extension, name) for name in TDReportExtension.__slots__)
        out += _TD_15_EXTENDED.pack(*fields)
    return out


def encode_signed_range(header: QuoteHeader, body: TDReport) -> bytes:
    """Return what the attestation key signs: header, in version 5 the descriptor, body."""
    encoded = encode_td_report(body)
    assert header.version in {4, 5}, "TD reports travel in quotes of version 4 and 5"
    if header.version == 4:
        assert body.body_type == BODY_TD_10, "version 4 carries report 1.0 only"
        return encode_header(header) + encoded
    descriptor = _DESCRIPTOR.pack(body.body_type, len(encoded))
    return encode_header(header) + descriptor + encoded


def encode_quote(
    signed: bytes,
    *,
    signature: bytes,
    attestation_key: bytes,
    qe_report: bytes,
    qe_report_signature: bytes,
    qe_auth_data: bytes,
    certification_type: int,
    certification_data: bytes,
) -> bytes:
    """Return a quote of version 4 or 5 around a signed range.

    Args:
        signed: from :func:`encode_signed_range`.
        signature: raw ``r||s`` over ``signed``.
        attestation_key: raw ``x||y``.
        qe_report: 384 bytes, from :func:`encode_enclave_report`.
        qe_report_signature: raw ``r||s`` over ``qe_report`` by the PCK key.
        qe_auth_data: what the QE report's REPORTDATA binds beside the key.
        certification_type: 5 for a PEM chain.
        certification_data: the chain.
    """
    block = (
        qe_report
        + qe_report_signature
        + _U16.pack(len(qe_auth_data))
        + qe_auth_data
        + _DESCRIPTOR.pack(certification_type, len(certification_data))
        + certification_data
    )
    outer = _DESCRIPTOR.pack(CERTIFICATION_QE_REPORT, len(block))
    data = signature + attestation_key + outer + block
    return signed + _U32.pack(len(data)) + data
