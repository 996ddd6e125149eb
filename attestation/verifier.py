"""Is this quote genuine? The steps are listed in ``attestation.steps`` and numbered in every refusal.

The caller must still appraise the result (``attestation.appraise``). A verified quote is genuine, but may be
of a debug TD, on an outdated platform, running any software.
"""

import hashlib
import hmac
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from attestation.collateral.endorsements import (
    AuthenticEndorsements,
    VerifiedEndorsements,
)
from attestation.collateral.signers import require_pinned
from attestation.collateral.tcb_info import QeIdentity
from attestation.errors import (
    AttestationError,
    CertificatePathError,
    MalformedError,
    RevokedError,
    SignatureError,
    VerificationError,
)
from attestation.quote.codec import (
    CERTIFICATION_PCK_CHAIN,
    CERTIFICATION_PCK_LEAF,
    CERTIFICATION_PPID_PLAIN,
    CERTIFICATION_PPID_RSA_2048,
    CERTIFICATION_PPID_RSA_3072,
    EnclaveReport,
    Quote,
    TDReport,
    parse_quote_untrusted,
)
from attestation.steps import Step, at_step
from attestation.tcb import TcbEvaluation, evaluate_tcb
from attestation.values import TcbStatus
from attestation.x509.certificates import (
    Certificate,
    load_certificate_untrusted,
    require_in_window,
    require_issued_by,
    require_leaf,
    require_role,
    split_pem_untrusted,
)
from attestation.x509.crl import require_not_revoked
from attestation.x509.ecdsa import is_signature_valid
from attestation.x509.pck import PckExtension, parse_pck_extension_untrusted

_CURVE: Final = ec.SECP256R1()
_PPID_TYPES: Final = frozenset(
    {CERTIFICATION_PPID_PLAIN, CERTIFICATION_PPID_RSA_2048, CERTIFICATION_PPID_RSA_3072}
)
# Where PCESVN ends in certification data of types 1 to 3: PPID, CPUSVN 16, PCESVN 2, PCEID 2 (PCEID is
# absent in Intel's own sample of type 1, so a size of two bytes less is accepted too).
_PPID_DATA_BYTES: Final = {
    CERTIFICATION_PPID_PLAIN: 36,
    CERTIFICATION_PPID_RSA_2048: 276,
    CERTIFICATION_PPID_RSA_3072: 404,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pck:
    """The quote's PCK: its certificate and the facts that Intel certifies in it.

    Attributes:
        ca: ``platform`` or ``processor``.
    """

    certificate: Certificate
    ca_certificate: Certificate
    ca: str
    extension: PckExtension


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticQuote:
    """A quote with every signature verified up to the pinned root. Time and TCB are not judged.

    Made by :func:`authenticate_quote` only.
    """

    quote: Quote
    body: TDReport
    pck: Pck
    endorsements: AuthenticEndorsements

    def evaluate(self) -> TcbEvaluation:
        """Evaluate the TCB (steps 15 to 18). The status may be Revoked.

        Raises:
            VerificationError: Intel does not describe the QE or the module, or no level is reached.
        """
        with at_step(Step.QE):
            report = self.quote.signature_data.qe_report
            require_qe_identity(report, self.endorsements.qe_identity)
        return evaluate_tcb(
            self.body,
            self.pck.extension,
            self.endorsements.tcb_info,
            self.endorsements.qe_identity,
            report.isv_svn,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedQuote:
    """A genuine TD quote, with its TCB evaluated at ``verified_at``. Its status is never Revoked.

    Made by :func:`verify_quote` only.
    """

    quote: Quote
    body: TDReport
    pck: Pck
    tcb: TcbEvaluation
    endorsements: VerifiedEndorsements
    verified_at: datetime

    @property
    def mock(self) -> bool:
        """True if the trust root is not Intel's."""
        return self.endorsements.root.mock

    @property
    def valid_from(self) -> datetime:
        """The first second at which all of the endorsements and the PCK chain were valid."""
        return max(
            self.endorsements.valid_from,
            self.pck.certificate.not_before,
            self.pck.ca_certificate.not_before,
        )

    @property
    def valid_until(self) -> datetime:
        """The last second at which all of the endorsements and the PCK chain are valid."""
        return min(
            self.endorsements.valid_until,
            self.pck.certificate.not_after,
            self.pck.ca_certificate.not_after,
        )

    def require_current(self, now: datetime) -> "VerifiedQuote":
        """Return this quote as verified at ``now``; windows are checked only if that is another time.

        Raises:
            StaleEndorsementsError: an endorsement or the PCK chain is outside its window.
        """
        if now == self.verified_at:
            return self
        endorsements = self.endorsements.require_current(now)
        _require_pck_in_window(self.pck, endorsements.verified_at)
        return replace(self, endorsements=endorsements, verified_at=endorsements.verified_at)


def verify_quote(
    quote: bytes,
    endorsements: VerifiedEndorsements,
    *,
    now: datetime,
    pck_chain: bytes | None = None,
) -> VerifiedQuote:
    """Verify a TD quote completely, to the root that the endorsements were verified with.

    Args:
        quote: raw bytes; padding after the signature data is accepted and ignored.
        endorsements: of the quote's own platform; their windows are checked again if ``now`` is another
            time than theirs.
        now: aware; one time for everything.
        pck_chain: PEM, for quotes that do not carry a chain; the endorsements' own is used if None.

    Raises:
        MalformedError: not a quote, or a format that is refused by name.
        VerificationError: not genuine, not current, no TCB level, or revoked.
    """
    parsed = parse_quote_untrusted(quote)
    return verify_parsed_quote(parsed, endorsements.require_current(now), pck_chain=pck_chain)


def verify_parsed_quote(
    quote: Quote, endorsements: VerifiedEndorsements, *, pck_chain: bytes | None = None
) -> VerifiedQuote:
    """Verify as :func:`verify_quote` does, at the time at which the endorsements are verified.

    Raises:
        MalformedError, VerificationError: as :func:`verify_quote`.
    """
    authentic = authenticate_quote(quote, endorsements.authentic, pck_chain=pck_chain)
    _require_pck_in_window(authentic.pck, endorsements.verified_at)
    tcb = authentic.evaluate()
    require_not_revoked_tcb(tcb)
    return VerifiedQuote(
        quote=authentic.quote,
        body=authentic.body,
        pck=authentic.pck,
        tcb=tcb,
        endorsements=endorsements,
        verified_at=endorsements.verified_at,
    )


def _require_pck_in_window(pck: Pck, now: datetime) -> None:
    with at_step(Step.PCK_WINDOWS):
        require_in_window(pck.certificate, now)
        require_in_window(pck.ca_certificate, now)


def claimed_fmspc_untrusted(quote: Quote) -> bytes | None:
    """Return the FMSPC that a quote claims, to find its collateral; None if it names none.

    Nothing is verified. ``authenticate_quote`` decides which platform a quote is from.
    """
    data = quote.signature_data
    if data.certification_type != CERTIFICATION_PCK_CHAIN:
        return None
    try:
        blocks = split_pem_untrusted(data.certification_data, role="pck", count_max=4)
        leaf = load_certificate_untrusted(blocks[0], role="pck") if blocks else None
        if leaf is None or leaf.sgx_extension is None:
            return None
        return parse_pck_extension_untrusted(leaf.sgx_extension).fmspc
    except AttestationError:
        return None


def require_not_revoked_tcb(tcb: TcbEvaluation) -> None:
    """Require another status than Revoked, which no policy may accept.

    Raises:
        RevokedError: ``tcb-revoked``.
    """
    if tcb.status is TcbStatus.REVOKED:
        raise RevokedError(
            "tcb-revoked",
            "the platform's TCB, its TDX module or its quoting enclave is revoked",
            step=Step.STATUS,
            values={
                "launch": tcb.launch.status,
                "current": None if tcb.current is None else tcb.current.status,
            },
        )


def authenticate_quote(
    quote: Quote, endorsements: AuthenticEndorsements, *, pck_chain: bytes | None
) -> AuthenticQuote:
    """Check every signature of a TD quote (steps 8, 9, 11 to 14), but no time and no TCB.

    Raises:
        MalformedError, VerificationError: as :func:`verify_quote`.
    """
    body = require_td_report(quote)
    pck = _authenticate_pck(_pck_chain(quote, endorsements, pck_chain), endorsements)
    with at_step(Step.PLATFORM):
        _require_platform(quote, pck.extension, endorsements)
    data = quote.signature_data
    with at_step(Step.QE_REPORT):
        if not is_signature_valid(pck.certificate.public_key, data.qe_report_signature, data.qe_report_bytes):
            raise SignatureError("qe-report-signature", "the QE report is not signed by the quote's PCK")
    with at_step(Step.BINDING):
        _require_binding(quote)
    with at_step(Step.SIGNATURE):
        _require_quote_signature(quote)
    return AuthenticQuote(quote=quote, body=body, pck=pck, endorsements=endorsements)


def require_td_report(quote: Quote) -> TDReport:
    """Return the quote's TD report.

    Raises:
        VerificationError: ``sgx-evidence-unsupported``.
    """
    if isinstance(quote.body, EnclaveReport):
        raise VerificationError(
            "sgx-evidence-unsupported",
            "this is the quote of an SGX enclave; only TDX evidence is verified",
            step=Step.HEADER,
            values={"version": quote.version},
        )
    return quote.body


# ---- the PCK ----------------------------------------------------------------------------------------


def _pck_chain(
    quote: Quote, endorsements: AuthenticEndorsements, pck_chain: bytes | None
) -> tuple[bytes, ...]:
    """Return leaf, PCK CA and root as DER, from the quote (type 5) or from outside (types 1 to 4)."""
    data = quote.signature_data
    external = endorsements.pck_certificate_chain if pck_chain is None else pck_chain
    with at_step(Step.PCK_CHAIN):
        if data.certification_type == CERTIFICATION_PCK_CHAIN:
            chain = data.certification_data
        elif data.certification_type in _PPID_TYPES | {CERTIFICATION_PCK_LEAF}:
            if external is None:
                raise CertificatePathError(
                    "pck-chain-missing",
                    f"the quote has certification data of type {data.certification_type}, which needs a "
                    "PCK certificate chain from outside, and none was given",
                    values={"certification_type": data.certification_type},
                )
            chain = external
        else:
            raise MalformedError(
                "quote-certification-data-type",
                f"certification data of type {data.certification_type} is not supported (1 to 5 are)",
                values={"certification_type": data.certification_type},
            )
        blocks = split_pem_untrusted(chain, role="pck", count_max=4)
        if len(blocks) != 3:
            raise CertificatePathError(
                "pck-chain-length",
                f"the PCK chain has {len(blocks)} certificates, expected PCK, PCK CA and root",
                values={"expected": 3, "actual": len(blocks)},
            )
        if data.certification_type == CERTIFICATION_PCK_LEAF:
            _require_same_leaf(data.certification_data, blocks[0])
    require_pinned(blocks[2], endorsements.root)
    return blocks


def _require_same_leaf(embedded: bytes, leaf: bytes) -> None:
    """Require that a PCK leaf inside the quote (DER or PEM) equals the leaf of the outer chain."""
    blocks = split_pem_untrusted(embedded, role="pck", count_max=4)
    if leaf not in {embedded.rstrip(b"\0"), *blocks[:1]}:
        raise CertificatePathError(
            "pck-chain-mismatch", "the PCK chain given is not for the PCK inside the quote"
        )


def _authenticate_pck(chain: tuple[bytes, ...], endorsements: AuthenticEndorsements) -> Pck:
    with at_step(Step.PCK_CHAIN):
        leaf = load_certificate_untrusted(chain[0], role="pck")
    ca = endorsements.require_pck_ca(chain[1]).certificate
    with at_step(Step.PCK_CHAIN):
        require_issued_by(leaf, ca)
        require_role(leaf, "SGX PCK Certificate")
        require_leaf(leaf)
        if leaf.sgx_extension is None:
            raise MalformedError("pck-extension-missing", "the PCK certificate has no SGX extension")
        extension = parse_pck_extension_untrusted(leaf.sgx_extension)
    with at_step(Step.PCK_CRL):
        require_not_revoked(leaf, endorsements.pck_crl)
    return Pck(
        certificate=leaf,
        ca_certificate=ca,
        ca="platform" if "Platform" in ca.common_name else "processor",
        extension=extension,
    )


def _require_platform(quote: Quote, pck: PckExtension, endorsements: AuthenticEndorsements) -> None:
    tcb_info = endorsements.tcb_info
    for code, expected, actual in (
        ("fmspc", pck.fmspc, tcb_info.fmspc),
        ("pceid", pck.pce_id, tcb_info.pce_id),
    ):
        if expected != actual:
            raise VerificationError(
                f"tcb-info-{code}-mismatch",
                f"the TCB info is for another platform: {code.upper()} {actual.hex()}, "
                f"the PCK certificate has {expected.hex()}",
                values={"expected": expected.hex(), "actual": actual.hex()},
            )
    data = quote.signature_data
    size = _PPID_DATA_BYTES.get(data.certification_type)
    if size is not None and len(data.certification_data) not in {size, size - 2}:
        raise MalformedError(
            "quote-certification-data",
            f"certification data of type {data.certification_type} has "
            f"{len(data.certification_data)} bytes, expected {size}",
        )


# ---- the quoting enclave and the quote ----------------------------------------------------------------


def _require_binding(quote: Quote) -> None:
    """REPORTDATA of the QE report is SHA-256(AK || authentication data), then zeros (A3)."""
    data = quote.signature_data
    expected = hashlib.sha256(data.attestation_key + data.qe_auth_data).digest() + bytes(32)
    if not hmac.compare_digest(expected, data.qe_report.report_data):
        raise VerificationError(
            "attestation-key-binding",
            "the QE report does not commit to the attestation key in the quote",
            values={"expected": expected.hex(), "actual": data.qe_report.report_data.hex()},
        )


def _require_quote_signature(quote: Quote) -> None:
    data = quote.signature_data
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, b"\x04" + data.attestation_key)
    except ValueError as exc:
        raise MalformedError(
            "attestation-key-malformed", "the attestation key is not a point on P-256"
        ) from exc
    if not is_signature_valid(key, data.signature, quote.signed):
        raise SignatureError("quote-signature", "the quote is not signed by the attestation key inside it")


def require_qe_identity(report: EnclaveReport, identity: QeIdentity) -> None:
    """Require that the quoting enclave matches Intel's description (A7).

    Raises:
        VerificationError: ``qe-miscselect``, ``qe-attributes``, ``qe-mrsigner`` or ``qe-isvprodid``.
    """
    masked = bytes(
        value & mask for value, mask in zip(report.attributes, identity.attributes_mask, strict=True)
    )
    checks: tuple[tuple[str, object, object], ...] = (
        ("miscselect", identity.misc_select, report.misc_select & identity.misc_select_mask),
        ("attributes", identity.attributes.hex(), masked.hex()),
        ("mrsigner", identity.mr_signer.hex(), report.mr_signer.hex()),
        ("isvprodid", identity.isv_prod_id, report.isv_prod_id),
    )
    for field, expected, actual in checks:
        if expected != actual:
            raise VerificationError(
                f"qe-{field}",
                f"the quoting enclave's {field.upper()} is not the one in Intel's QE identity",
                values={"expected": expected, "actual": actual},
            )
