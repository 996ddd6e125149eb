"""Quotes to values and back. The layout is in ``attestation.quote.layout``; this module re-exports its names.

Parsing is bounded and total: every byte string is either a quote or one ``MalformedError``.
"""

from typing import Final, NoReturn

from attestation.errors import MalformedError
from attestation.quote.layout import (
    BODY_BYTES,
    BODY_SGX,
    BODY_TD_10,
    BODY_TD_15,
    BODY_TD_15_EXTENDED,
    CERTIFICATION_PCK_CHAIN,
    CERTIFICATION_PCK_LEAF,
    CERTIFICATION_PPID_PLAIN,
    CERTIFICATION_PPID_RSA_2048,
    CERTIFICATION_PPID_RSA_3072,
    CERTIFICATION_QE_REPORT,
    DESCRIPTOR,
    ENCLAVE_STRUCT,
    HEADER_STRUCT,
    KEY_BYTES,
    KEY_TYPE_P256,
    KEY_TYPE_P384,
    QE_VENDOR_INTEL,
    SIGNATURE_BYTES,
    TD_10_STRUCT,
    TD_15_EXTENDED_STRUCT,
    TD_15_STRUCT,
    TEE_SGX,
    TEE_TDX,
    U16,
    U32,
    EnclaveReport,
    Quote,
    QuoteHeader,
    SignatureData,
    TDReport,
    TDReportExtension,
)

__all__ = [
    "BODY_SGX",
    "BODY_TD_10",
    "BODY_TD_15",
    "BODY_TD_15_EXTENDED",
    "CERTIFICATION_PCK_CHAIN",
    "CERTIFICATION_PCK_LEAF",
    "CERTIFICATION_PPID_PLAIN",
    "CERTIFICATION_PPID_RSA_2048",
    "CERTIFICATION_PPID_RSA_3072",
    "CERTIFICATION_QE_REPORT",
    "KEY_TYPE_P256",
    "QE_VENDOR_INTEL",
    "QUOTE_BYTES_MAX",
    "TEE_SGX",
    "TEE_TDX",
    "EnclaveReport",
    "Quote",
    "QuoteHeader",
    "SignatureData",
    "TDReport",
    "TDReportExtension",
    "encode_enclave_report",
    "encode_header",
    "encode_quote",
    "encode_signed_range",
    "encode_td_report",
    "parse_body_untrusted",
    "parse_quote_untrusted",
]

QUOTE_BYTES_MAX: Final = 128 * 1024
"""Far above any quote (5 to 8 kB, 32 KiB through configfs-tsm), far below a harmful size."""
_CBOR_TAG_HEADS: Final = (b"\xd2", b"\xd8", b"\xd9", b"\x84")


# ---- decoding ---------------------------------------------------------------------------------------


def parse_quote_untrusted(data: bytes) -> Quote:
    """Parse a quote of version 3, 4 or 5.

    Raises:
        MalformedError: not a quote, or a format that is refused by name.
    """
    if len(data) > QUOTE_BYTES_MAX:
        raise MalformedError("quote-too-large", f"a quote of {len(data)} bytes, at most {QUOTE_BYTES_MAX}")
    header = _parse_header(data)
    body_type, body_start = _locate_body(data, header)
    body_end = body_start + BODY_BYTES[body_type]
    if len(data) < body_end + U32.size:
        _truncated("the body", body_end + U32.size, len(data))
    body = parse_body_untrusted(data[body_start:body_end], body_type)
    (length,) = U32.unpack_from(data, body_end)
    start = body_end + U32.size
    # Checked against the available bytes, before any of them is copied.
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
    if len(data) < U16.size:
        _truncated("the header", HEADER_STRUCT.size, len(data))
    (version,) = U16.unpack_from(data)
    if version not in {3, 4, 5}:
        # A kernel may return a CBOR Web Token where the platform attests by DICE (A13.1).
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
    if len(data) < HEADER_STRUCT.size:
        _truncated("the header", HEADER_STRUCT.size, len(data))
    _, key_type, tee_type, reserved_1, reserved_2, vendor, user_data = HEADER_STRUCT.unpack_from(data)
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
    """Return the body's type and offset (A1.2)."""
    if header.version != 5:
        return (BODY_TD_10 if header.tee_type == TEE_TDX else BODY_SGX), HEADER_STRUCT.size
    start = HEADER_STRUCT.size + DESCRIPTOR.size
    if len(data) < start:
        _truncated("the body descriptor", start, len(data))
    body_type, size = DESCRIPTOR.unpack_from(data, HEADER_STRUCT.size)
    if body_type not in BODY_BYTES:
        raise MalformedError(
            "quote-body-type-unsupported",
            f"quote body type {body_type} is not supported (1 to 4 are known)",
            step="2",
            values={"body_type": body_type},
        )
    if size != BODY_BYTES[body_type]:
        raise MalformedError(
            "quote-body-size",
            f"body type {body_type} has {BODY_BYTES[body_type]} bytes, the quote gives {size}",
            step="2",
            values={"expected": BODY_BYTES[body_type], "actual": size},
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
    """Parse a body with exactly the size of its type.

    Raises:
        MalformedError: another length.
    """
    if len(data) != BODY_BYTES[body_type]:
        raise MalformedError("quote-body-size", f"a body of {len(data)} bytes, type {body_type}", step="2")
    if body_type == BODY_SGX:
        return _parse_enclave_report(data)
    (
        tee_tcb_svn, mr_seam, mr_signer_seam, seam_attributes, td_attributes, xfam, mrtd,
        mr_config_id, mr_owner, mr_owner_config, rtmr0, rtmr1, rtmr2, rtmr3, report_data,
    ) = TD_10_STRUCT.unpack_from(data)  # fmt: skip
    tee_tcb_svn_2 = mr_service_td = extension = None
    if body_type != BODY_TD_10:
        tee_tcb_svn_2, mr_service_td = TD_15_STRUCT.unpack_from(data, TD_10_STRUCT.size)
    if body_type == BODY_TD_15_EXTENDED:
        extension = TDReportExtension(
            **dict(
                zip(
                    TDReportExtension.__slots__,
                    TD_15_EXTENDED_STRUCT.unpack_from(data, TD_10_STRUCT.size + TD_15_STRUCT.size),
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
        **dict(zip(EnclaveReport.__slots__, ENCLAVE_STRUCT.unpack(data), strict=True)),
    )


def _parse_signature_data(data: bytes, version: int) -> SignatureData:
    """Parse the signature data. Every size must be consumed exactly (A3)."""
    start = SIGNATURE_BYTES + KEY_BYTES
    block = data[start:]
    if version != 3:
        if len(block) < DESCRIPTOR.size:
            _truncated("the signature data", start + DESCRIPTOR.size, len(data))
        outer_type, size = DESCRIPTOR.unpack_from(block)
        # The outer type is not signed; a quoting enclave never writes another type here.
        if outer_type != CERTIFICATION_QE_REPORT:
            raise MalformedError(
                "quote-certification-type",
                f"the outer certification data is of type {outer_type}, expected 6",
                step="1",
                values={"expected": CERTIFICATION_QE_REPORT, "actual": outer_type},
            )
        block = _exactly(block[DESCRIPTOR.size :], size)
    auth_start = ENCLAVE_STRUCT.size + SIGNATURE_BYTES + U16.size
    if len(block) < auth_start:
        _truncated("the QE report", auth_start, len(block))
    (auth_bytes,) = U16.unpack_from(block, auth_start - U16.size)
    auth_end = auth_start + auth_bytes
    if len(block) < auth_end + DESCRIPTOR.size:
        _truncated("the QE authentication data", auth_end + DESCRIPTOR.size, len(block))
    certification_type, size = DESCRIPTOR.unpack_from(block, auth_end)
    return SignatureData(
        signature=data[:SIGNATURE_BYTES],
        attestation_key=data[SIGNATURE_BYTES:start],
        qe_report_bytes=block[: ENCLAVE_STRUCT.size],
        qe_report=_parse_enclave_report(block[: ENCLAVE_STRUCT.size]),
        qe_report_signature=block[ENCLAVE_STRUCT.size : ENCLAVE_STRUCT.size + SIGNATURE_BYTES],
        qe_auth_data=block[auth_start:auth_end],
        certification_type=certification_type,
        certification_data=_exactly(block[auth_end + DESCRIPTOR.size :], size),
    )


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) < size:
        _truncated("the certification data", size, len(data))
    if len(data) > size:
        # Unsigned bytes inside a signed structure's length are harmless, and no real QE makes them.
        raise MalformedError(
            "quote-signature-data-trailing",
            f"{len(data) - size} bytes follow the certification data inside the signature data",
            step="1",
        )
    return data


# ---- encoding ---------------------------------------------------------------------------------------


def encode_header(header: QuoteHeader) -> bytes:
    """Return the 48 bytes of a header."""
    return HEADER_STRUCT.pack(
        header.version,
        header.attestation_key_type,
        header.tee_type,
        *header.reserved,
        header.qe_vendor_id,
        header.user_data,
    )


def encode_enclave_report(report: EnclaveReport) -> bytes:
    """Return the 384 bytes of an SGX report."""
    return ENCLAVE_STRUCT.pack(*(getattr(report, name) for name in EnclaveReport.__slots__))


def encode_td_report(report: TDReport) -> bytes:
    """Return the 584, 648 or 885 bytes of a TD report body; its fields decide which."""
    out = TD_10_STRUCT.pack(
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
        out += TD_15_STRUCT.pack(report.tee_tcb_svn_2, report.mr_service_td)
    if report.extension is not None:
        assert report.tee_tcb_svn_2 is not None, "body type 4 contains report 1.5"
        fields = (getattr(report.extension, name) for name in TDReportExtension.__slots__)
        out += TD_15_EXTENDED_STRUCT.pack(*fields)
    return out


def encode_signed_range(header: QuoteHeader, body: TDReport) -> bytes:
    """Return the bytes that the attestation key signs: header, in version 5 the descriptor, body."""
    encoded = encode_td_report(body)
    assert header.version in {4, 5}, "TD reports travel in quotes of version 4 and 5"
    if header.version == 4:
        assert body.body_type == BODY_TD_10, "version 4 carries report 1.0 only"
        return encode_header(header) + encoded
    descriptor = DESCRIPTOR.pack(body.body_type, len(encoded))
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
        qe_auth_data: the data that the QE report's REPORTDATA binds together with the key.
        certification_type: 5 for a PEM chain.
        certification_data: the chain.
    """
    block = (
        qe_report
        + qe_report_signature
        + U16.pack(len(qe_auth_data))
        + qe_auth_data
        + DESCRIPTOR.pack(certification_type, len(certification_data))
        + certification_data
    )
    outer = DESCRIPTOR.pack(CERTIFICATION_QE_REPORT, len(block))
    data = signature + attestation_key + outer + block
    return signed + U32.pack(len(data)) + data
