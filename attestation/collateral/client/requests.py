"""Which requests yield the collateral of one platform (A12; Intel PCS API v4).

Addresses come from configuration alone. Two values come from a quote, FMSPC and CA, and both are closed types
before they are put into a URL. The CRL distribution points in certificates are never followed.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self
from urllib.parse import urlencode, urlsplit

from attestation.errors import MalformedError

FMSPC_BYTES: Final = 6
_FMSPC: Final = re.compile(r"[0-9A-Fa-f]{12}", re.ASCII)

# The largest real ones: 13.6 kB of TCB info, 2.7 kB of PCK CRL. As hex text a CRL is twice its DER.
DOCUMENT_BYTES_MAX: Final = 256 * 1024
CRL_BYTES_MAX: Final = 1024 * 1024
EVALUATION_NUMBER_MAX: Final = 0xFFFF_FFFF


class PckCaKind(StrEnum):
    """Which of Intel's two PCK CAs issued a platform's PCK certificate. TDX: always ``platform``."""

    PLATFORM = "platform"
    PROCESSOR = "processor"


class UpdateMode(StrEnum):
    """Which of the TCB infos that are valid at the same time (A8.1)."""

    STANDARD = "standard"
    EARLY = "early"


# A mode, or an explicit tcbEvaluationDataNumber: PCS takes one or the other.
TcbUpdate = UpdateMode | int


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """The values that decide which collateral a quote needs.

    Attributes:
        fmspc: 6 bytes, from the PCK certificate.
        ca: issuer of the PCK certificate.
    """

    fmspc: bytes
    ca: PckCaKind

    def __post_init__(self) -> None:
        if len(self.fmspc) != FMSPC_BYTES:
            raise ValueError(f"an FMSPC has {FMSPC_BYTES} bytes, not {len(self.fmspc)}")

    @classmethod
    def from_text_untrusted(cls, fmspc: str, ca: str) -> Self:
        """Read both from text, such as a command line's.

        Raises:
            MalformedError: ``fmspc-invalid`` or ``pck-ca-invalid``.
        """
        if _FMSPC.fullmatch(fmspc) is None:
            raise MalformedError("fmspc-invalid", "an FMSPC is 12 hex digits, such as 90c06f000000")
        try:
            authority = PckCaKind(ca)
        except ValueError as exc:
            raise MalformedError("pck-ca-invalid", "the PCK CA is 'platform' or 'processor'") from exc
        return cls(fmspc=bytes.fromhex(fmspc), ca=authority)


class SourceKind(StrEnum):
    """The API variant of a source."""

    PCS = "pcs"  # Intel itself
    PCCS = "pccs"  # a caching proxy: also serves the root CRL


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One configured place to get collateral from. The configured sources are the allow-list.

    Attributes:
        kind: its API variant.
        base_url: without the trailing slash and without ``/sgx/certification/v4``.
        root_crl_url: where the root CRL is; for a PCCS it follows from the base.
    """

    kind: SourceKind
    base_url: str
    root_crl_url: str

    @classmethod
    def pccs(cls, base_url: str) -> Self:
        """Return a PCCS at this address.

        Raises:
            ValueError: not an https URL (http only on loopback), or with parts that a base URL cannot have.
        """
        base = _require_base(base_url)
        return cls(
            kind=SourceKind.PCCS,
            base_url=base,
            root_crl_url=f"{base}/sgx/certification/v4/rootcacrl",
        )

    @classmethod
    def pcs(cls, base_url: str, root_crl_url: str) -> Self:
        """Return a mirror of Intel's PCS, with the address of the root CRL beside it.

        Raises:
            ValueError: as for ``pccs``.
        """
        return cls(
            kind=SourceKind.PCS,
            base_url=_require_base(base_url),
            root_crl_url=_require_base(root_crl_url),
        )


_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def _require_base(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:
        raise ValueError(f"{url!r} is not a URL") from exc
    plain_loopback = parts.scheme == "http" and host in _LOOPBACK
    if not host or not (parts.scheme == "https" or plain_loopback):
        raise ValueError(f"{url!r} is not an https URL (http only on loopback)")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError(f"{url!r} has a user, a query or a fragment; give the base address alone")
    if "/certification/" in parts.path:
        raise ValueError(f"{url!r} names an API path; give the base address alone")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"{url!r} has characters that a URL cannot have")
    return url.rstrip("/")


INTEL_PCS: Final = Source.pcs(
    "https://api.trustedservices.intel.com",
    "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
)


class CollateralItem(StrEnum):
    """The items that are fetched one by one: the four parts of a set, and the list of published numbers."""

    ROOT_CRL = "root-crl"
    PCK_CRL = "pck-crl"
    TCB_INFO = "tcb-info"
    QE_IDENTITY = "qe-identity"
    EVALUATION_NUMBERS = "evaluation-numbers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One GET.

    Attributes:
        item: the item that the answer contains.
        url: complete.
        chain_headers: headers that may contain the issuer chain, preferred first; empty if it has none.
        bytes_max: the largest body to accept.
    """

    item: CollateralItem
    url: str
    chain_headers: tuple[str, ...]
    bytes_max: int


def requests_for(source: Source, platform: Platform, update: TcbUpdate) -> tuple[Request, ...]:
    """Return the four requests whose answers make the set for one platform.

    Raises:
        ValueError: an evaluation data number outside its range: our own bug or configuration.
    """
    if isinstance(update, int) and not 0 < update <= EVALUATION_NUMBER_MAX:
        raise ValueError(f"{update} is not a tcbEvaluationDataNumber")
    selection = (
        ("update", str(update))
        if isinstance(update, UpdateMode)
        else ("tcbEvaluationDataNumber", str(update))
    )
    base = source.base_url
    tcb_query = urlencode([("fmspc", platform.fmspc.hex()), selection])
    return (
        _root_crl_request(source),
        Request(
            item=CollateralItem.PCK_CRL,
            # DER if the source honours this; an old PCCS answers in hex anyway.
            url=f"{base}/sgx/certification/v4/pckcrl?ca={platform.ca}&encoding=der",
            chain_headers=("SGX-PCK-CRL-Issuer-Chain",),
            bytes_max=CRL_BYTES_MAX,
        ),
        Request(
            item=CollateralItem.TCB_INFO,
            url=f"{base}/tdx/certification/v4/tcb?{tcb_query}",
            # The second name is the header of API v3, which old PCCS still use.
            chain_headers=("TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"),
            bytes_max=DOCUMENT_BYTES_MAX,
        ),
        Request(
            item=CollateralItem.QE_IDENTITY,
            url=f"{base}/tdx/certification/v4/qe/identity?{urlencode([selection])}",
            chain_headers=("SGX-Enclave-Identity-Issuer-Chain",),
            bytes_max=DOCUMENT_BYTES_MAX,
        ),
    )


def requests_for_numbers(source: Source) -> tuple[Request, ...]:
    """Return the requests for the published TDX evaluation numbers, and the CRL that their signer needs."""
    return (
        _root_crl_request(source),
        Request(
            item=CollateralItem.EVALUATION_NUMBERS,
            url=f"{source.base_url}/tdx/certification/v4/tcbevaluationdatanumbers",
            chain_headers=("TCB-Evaluation-Data-Numbers-Issuer-Chain",),
            bytes_max=DOCUMENT_BYTES_MAX,
        ),
    )


def _root_crl_request(source: Source) -> Request:
    return Request(
        item=CollateralItem.ROOT_CRL, url=source.root_crl_url, chain_headers=(), bytes_max=CRL_BYTES_MAX
    )
