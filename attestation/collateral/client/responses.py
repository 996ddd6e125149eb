"""Answers of PCS and PCCS, parsed as far as needed to make a set of endorsements. Nothing is verified here.

The two APIs differ in how a CRL is written (hex text, PEM, DER), which header carries an issuer chain
and how it is escaped. The content decides all of that, never the configured kind of the source.
"""

import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from attestation.collateral.client.requests import CollateralItem, Request
from attestation.collateral.endorsements import Endorsements
from attestation.collateral.evaluation_numbers import SignedEvaluationNumbers
from attestation.collateral.signed_json import extract_signed_untrusted
from attestation.errors import MalformedError
from attestation.x509.certificates import split_pem_untrusted
from attestation.x509.crl import parse_crl_untrusted

# Two or three P-256 certificates of about 900 bytes, percent-encoded.
CHAIN_HEADER_BYTES_MAX: Final = 16 * 1024
_CHAIN_CERTIFICATES_MAX: Final = 3
_MEMBERS: Final = {
    CollateralItem.TCB_INFO: "tcbInfo",
    CollateralItem.QE_IDENTITY: "enclaveIdentity",
    CollateralItem.EVALUATION_NUMBERS: "tcbEvaluationDataNumbers",
}

_HEX: Final = re.compile(rb"(?:[0-9A-Fa-f]{2})+")
_PEM_BEGIN: Final = b"-----BEGIN X509 CRL-----"
_PEM_END: Final = b"-----END X509 CRL-----"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One item of a set, as it came.

    Attributes:
        item: the item that it is.
        document: DER of a CRL, or the exact signed bytes of a JSON document.
        signature: raw ``r||s``, 64 bytes; empty for a CRL, which carries its own.
        issuer_chain: PEM; empty for the root CRL.
    """

    item: CollateralItem
    document: bytes
    signature: bytes
    issuer_chain: bytes


def parse_response_untrusted(request: Request, headers: Iterable[tuple[str, str]], body: bytes) -> Part:
    """Return the part in one successful answer.

    Raises:
        MalformedError: ``<item>-malformed``, ``<item>-chain-malformed`` or ``<item>-chain-missing``.
    """
    chain = _issuer_chain_untrusted(request, headers)
    if request.item in _MEMBERS:
        document, signature = extract_signed_untrusted(
            body, member=_MEMBERS[request.item], code=str(request.item)
        )
    else:
        document, signature = decode_crl_untrusted(body, role=str(request.item)), b""
    return Part(item=request.item, document=document, signature=signature, issuer_chain=chain)


def _issuer_chain_untrusted(request: Request, headers: Iterable[tuple[str, str]]) -> bytes:
    if not request.chain_headers:
        return b""
    wanted = [name.lower() for name in request.chain_headers]
    found: dict[str, list[str]] = {name: [] for name in wanted}
    for name, value in headers:
        if name.lower() in found:
            found[name.lower()].append(value)
    values = next((found[name] for name in wanted if found[name]), [])
    if len(values) != 1:
        raise MalformedError(
            f"{request.item}-chain-missing",
            f"the answer has {len(values)} headers {request.chain_headers[0]}, expected one",
        )
    return decode_issuer_chain_untrusted(values[0], role=str(request.item))


def decode_issuer_chain_untrusted(value: str, *, role: str) -> bytes:
    """Return the PEM of a percent-encoded issuer chain header.

    Percent-decoding only: a plus sign is base64 here, never a space.

    Raises:
        MalformedError: ``<role>-chain-malformed``.
    """
    if len(value) > CHAIN_HEADER_BYTES_MAX or not value.isascii():
        raise MalformedError(
            f"{role}-chain-malformed",
            f"the issuer chain is not ASCII of at most {CHAIN_HEADER_BYTES_MAX} bytes",
        )
    pem = unquote_to_bytes(value)
    if not split_pem_untrusted(pem, role=role, count_max=_CHAIN_CERTIFICATES_MAX):
        raise MalformedError(f"{role}-chain-malformed", "the issuer chain has no certificate")
    return pem


def decode_crl_untrusted(body: bytes, *, role: str) -> bytes:
    """Return the DER of a CRL that is hex text, PEM or DER, by content.

    Raises:
        MalformedError: ``<role>-malformed``.
    """
    text = body.strip()
    try:
        # DER starts with 0x30, which is also the digit "0"; but its second byte is no hex digit.
        if _HEX.fullmatch(text):
            der = binascii.unhexlify(text)
        elif text.startswith(_PEM_BEGIN) and text.endswith(_PEM_END):
            inner = text[len(_PEM_BEGIN) : -len(_PEM_END)]
            der = binascii.a2b_base64(b"".join(inner.split()), strict_mode=True)
        else:
            der = body
    except ValueError as exc:
        raise MalformedError(f"{role}-malformed", f"the {role} is not PEM") from exc
    parse_crl_untrusted(der, role=role)
    return der


def assemble(parts: Mapping[CollateralItem, Part]) -> Endorsements:
    """Return the set of endorsements that these four parts make."""
    return Endorsements(
        root_ca_crl=parts[CollateralItem.ROOT_CRL].document,
        pck_crl_issuer_chain=parts[CollateralItem.PCK_CRL].issuer_chain,
        pck_crl=parts[CollateralItem.PCK_CRL].document,
        tcb_info_issuer_chain=parts[CollateralItem.TCB_INFO].issuer_chain,
        tcb_info=parts[CollateralItem.TCB_INFO].document,
        tcb_info_signature=parts[CollateralItem.TCB_INFO].signature,
        qe_identity_issuer_chain=parts[CollateralItem.QE_IDENTITY].issuer_chain,
        qe_identity=parts[CollateralItem.QE_IDENTITY].document,
        qe_identity_signature=parts[CollateralItem.QE_IDENTITY].signature,
        pck_certificate_chain=None,
    )


def assemble_numbers(parts: Mapping[CollateralItem, Part]) -> SignedEvaluationNumbers:
    """Return the statement of published numbers that these two parts make."""
    part = parts[CollateralItem.EVALUATION_NUMBERS]
    return SignedEvaluationNumbers(
        document=part.document,
        signature=part.signature,
        issuer_chain=part.issuer_chain,
        root_crl=parts[CollateralItem.ROOT_CRL].document,
    )
