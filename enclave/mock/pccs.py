"""A PCCS that serves one set of endorsements: a mock authority's, or a recorded one.

It implements Intel's and the PCCS' API variants and can be set to fail in the ways that real sources do, so
that tests run the collateral client over the same HTTP as in production. Its answers can never verify as
Intel's: the signatures are the set's own.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from attestation.collateral.endorsements import Endorsements
from attestation.collateral.evaluation_numbers import SignedEvaluationNumbers
from attestation.collateral.tcb_info import parse_tcb_info_untrusted

_PAD_BYTES: Final = 4 * 1024 * 1024
# A body and its headers.
_Content = tuple[bytes, Mapping[str, str]]


class CRLEncoding(StrEnum):
    """How CRLs are written. PCCS: hex unless ``encoding=der``; PCS: PEM unless ``encoding=der``."""

    HEX = "hex"
    PEM = "pem"
    DER = "der"


class PccsFault(StrEnum):
    """One way in which an answer goes wrong."""

    SLOW = "slow"  # right, but late
    SERVER_ERROR = "server-error"  # 500
    BUSY = "busy"  # 503 with Retry-After
    NOT_FOUND = "not-found"  # 404
    REDIRECT = "redirect"  # 302 to another host
    TRUNCATED = "truncated"  # half of the body
    CORRUPT = "corrupt"  # one bit of the signed part flipped
    OVERSIZED = "oversized"  # megabytes of blanks behind the body
    NO_HEADER = "no-header"  # the issuer chain is not sent
    WRONG_HEADER = "wrong-header"  # the issuer chain is not PEM
    STALE = "stale"  # an older set's item, as from a cache that is never refreshed
    COMPRESSED = "compressed"  # marked as gzip, although the client did not request it


@dataclass(frozen=True, slots=True, kw_only=True)
class PCCSSettings:
    """The content that this PCCS serves, and how.

    Attributes:
        endorsements: returns the set to serve; called for each request.
        fault: what goes wrong with the next answer for this item (``root-crl``, ``pck-crl``, ``tcb-info``,
            ``qe-identity``, ``evaluation-numbers``); None if nothing does.
        early: the set to serve for ``update=early`` and for its own number; None if it is the same set.
        stale: the set from which a stale answer comes; None if no answer has that fault.
        evaluation_numbers: the signed list of published evaluation data numbers; None answers 404.
        crl_encoding: how CRLs are written.
        honours_encoding: whether ``encoding=der`` overrides ``crl_encoding``.
        tcb_info_chain_header: ``TCB-Info-Issuer-Chain``, or the old API's ``SGX-TCB-Info-Issuer-Chain``.
        slow_s: the delay of a slow answer.
        retry_after: value of the header of a busy answer.
        sleep: waits for the given number of seconds.
    """

    endorsements: Callable[[], Endorsements]
    fault: Callable[[str], PccsFault | None]
    early: Callable[[], Endorsements] | None = None
    stale: Callable[[], Endorsements] | None = None
    evaluation_numbers: Callable[[], SignedEvaluationNumbers] | None = None
    crl_encoding: CRLEncoding = CRLEncoding.HEX
    honours_encoding: bool = True
    tcb_info_chain_header: str = "TCB-Info-Issuer-Chain"
    slow_s: float = 1.0
    retry_after: str = "1"
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


def no_fault(_item: str) -> PccsFault | None:
    """Return None: nothing goes wrong with any item."""
    return None


def create_pccs(settings: PCCSSettings) -> Starlette:
    """Return the ASGI app. The root CRL is at a PCCS' path and at Intel's."""
    service = _Service(settings)
    v4 = "/certification/v4"
    return Starlette(
        routes=[
            Route(f"/sgx{v4}/rootcacrl", service.root_crl),
            Route("/IntelSGXRootCA.der", service.root_crl_der),
            Route(f"/sgx{v4}/pckcrl", service.pck_crl),
            Route(f"/tdx{v4}/tcb", service.tcb_info),
            Route(f"/tdx{v4}/qe/identity", service.qe_identity),
            Route(f"/tdx{v4}/tcbevaluationdatanumbers", service.evaluation_numbers),
        ]
    )


class _Service:
    def __init__(self, settings: PCCSSettings) -> None:
        self._settings = settings

    async def root_crl(self, request: Request) -> Response:
        return await self._serve(request, "root-crl", lambda served: (served.root_ca_crl.hex().encode(), {}))

    async def root_crl_der(self, request: Request) -> Response:
        return await self._serve(request, "root-crl", lambda served: (served.root_ca_crl, {}))

    async def pck_crl(self, request: Request) -> Response:
        ca = request.query_params.get("ca")
        if ca not in ("platform", "processor"):
            return Response(status_code=400)
        crl = x509.load_der_x509_crl(self._settings.endorsements().pck_crl)
        if ca not in crl.issuer.rfc4514_string().lower():
            return Response(status_code=404)
        der_wanted = request.query_params.get("encoding") == "der"
        encoding = self._settings.crl_encoding
        if der_wanted and self._settings.honours_encoding:
            encoding = CRLEncoding.DER

        def content(served: Endorsements) -> _Content:
            chain = {"SGX-PCK-CRL-Issuer-Chain": quote(served.pck_crl_issuer_chain)}
            return _encode_crl(served.pck_crl, encoding), chain

        return await self._serve(request, "pck-crl", content)

    async def tcb_info(self, request: Request) -> Response:
        tcb_info = parse_tcb_info_untrusted(self._settings.endorsements().tcb_info)
        if request.query_params.get("fmspc", "").lower() != tcb_info.fmspc.hex():
            return Response(status_code=404)

        def content(served: Endorsements) -> _Content:
            chain = {self._settings.tcb_info_chain_header: quote(served.tcb_info_issuer_chain)}
            return _signed("tcbInfo", served.tcb_info, served.tcb_info_signature), chain

        return await self._serve(request, "tcb-info", content)

    async def qe_identity(self, request: Request) -> Response:
        def content(served: Endorsements) -> _Content:
            chain = {"SGX-Enclave-Identity-Issuer-Chain": quote(served.qe_identity_issuer_chain)}
            return _signed("enclaveIdentity", served.qe_identity, served.qe_identity_signature), chain

        return await self._serve(request, "qe-identity", content)

    async def evaluation_numbers(self, request: Request) -> Response:
        if self._settings.evaluation_numbers is None:
            return Response(status_code=404)
        signed = self._settings.evaluation_numbers()
        body = _signed("tcbEvaluationDataNumbers", signed.document, signed.signature)
        chain = {"TCB-Evaluation-Data-Numbers-Issuer-Chain": quote(signed.issuer_chain)}
        return await self._answer(request, self._settings.fault("evaluation-numbers"), (body, chain))

    async def _serve(
        self, request: Request, item: str, content: Callable[[Endorsements], _Content]
    ) -> Response:
        served = self._selected(request)
        if isinstance(served, Response):
            return served
        fault = self._settings.fault(item)
        if fault is PccsFault.STALE:
            assert self._settings.stale is not None, "a stale answer needs an older set"
            served = self._settings.stale()
        return await self._answer(request, fault, content(served))

    def _selected(self, request: Request) -> Endorsements | Response:
        """Return the set that the request selects; otherwise the refusal that Intel's PCS would send."""
        explicit = request.query_params.get("tcbEvaluationDataNumber")
        update = request.query_params.get("update")
        if explicit is not None and update is not None:
            return Response(status_code=400)
        if update not in (None, "standard", "early"):
            return Response(status_code=400)
        standard = self._settings.endorsements()
        early = standard if self._settings.early is None else self._settings.early()
        if explicit is None:
            return early if update == "early" else standard
        numbered = {str(_number_of(served)): served for served in (early, standard)}
        return numbered.get(explicit) or Response(status_code=410)

    async def _answer(self, request: Request, fault: PccsFault | None, content: _Content) -> Response:
        body, headers = content
        if fault is PccsFault.SLOW:
            await self._settings.sleep(self._settings.slow_s)
        media_type = "application/json" if body.startswith(b"{") else "application/octet-stream"
        plain = Response(body, headers=dict(headers), media_type=media_type)
        match fault:
            case None | PccsFault.SLOW | PccsFault.STALE:
                return plain
            case PccsFault.SERVER_ERROR:
                return Response(status_code=500)
            case PccsFault.BUSY:
                return Response(status_code=503, headers={"Retry-After": self._settings.retry_after})
            case PccsFault.NOT_FOUND:
                return Response(status_code=404)
            case PccsFault.REDIRECT:
                elsewhere = f"http://elsewhere.invalid{request.url.path}"
                return Response(status_code=302, headers={"Location": elsewhere})
            case _:
                return _damaged(fault, body, dict(headers))


def _damaged(fault: PccsFault, body: bytes, headers: dict[str, str]) -> Response:
    """Return an answer that says 200 and is not what was asked for."""
    match fault:
        case PccsFault.TRUNCATED:
            return Response(body[: len(body) // 2], headers=headers)
        case PccsFault.CORRUPT:
            return Response(_corrupt(body), headers=headers)
        case PccsFault.OVERSIZED:
            return Response(body + b" " * _PAD_BYTES, headers=headers)
        case PccsFault.NO_HEADER:
            return Response(body)
        case PccsFault.WRONG_HEADER:
            return Response(body, headers=dict.fromkeys(headers, "not%20PEM"))
        case PccsFault.COMPRESSED:
            return Response(body, headers={**headers, "Content-Encoding": "gzip"})
        case _:
            raise ValueError(f"{fault} damages no body")


def _number_of(served: Endorsements) -> int:
    return parse_tcb_info_untrusted(served.tcb_info).tcb_evaluation_data_number


def _encode_crl(der: bytes, encoding: CRLEncoding) -> bytes:
    match encoding:
        case CRLEncoding.HEX:
            return der.hex().encode()
        case CRLEncoding.PEM:
            return x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)
        case CRLEncoding.DER:
            return der


def _signed(member: str, document: bytes, signature: bytes) -> bytes:
    return b'{"%b":%b,"signature":"%b"}' % (member.encode(), document, signature.hex().encode())


def _corrupt(body: bytes) -> bytes:
    """Return the body with one digit of a date changed: well-formed, but the signature does not match."""
    position = body.find(b'"issueDate":"')
    if position < 0:
        # A CRL: the last byte is in the signature, whatever the encoding.
        return body[:-1] + (b"0" if body[-1:] != b"0" else b"1")
    digit = position + len(b'"issueDate":"') + len("2026-11-22T10:00:0")
    changed = b"1" if body[digit : digit + 1] != b"1" else b"2"
    return body[:digit] + changed + body[digit + 1 :]
