"""Endorsements ("collateral"): raw, authentic, verified.

    Endorsements            bytes, from anywhere
      └ authenticate ->     AuthenticEndorsements: signed by the right roles below the pin; no time yet
          └ require_current -> VerifiedEndorsements: and inside every validity window at ``now``

Only the last may be used for a verdict. The middle one exists so that signatures are checked once and windows
every time, and so that a refusal for staleness can still report what the TCB status would have been.
"""

import binascii
import json
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Final, Self

from attestation.collateral.signed_json import DOCUMENT_BYTES_MAX, parse_json_untrusted
from attestation.collateral.signers import load_signer_untrusted, require_document_signature, require_signer
from attestation.collateral.tcb_info import (
    QeIdentity,
    TcbInfo,
    parse_qe_identity_untrusted,
    parse_tcb_info_untrusted,
)
from attestation.encoding.canonical import digest
from attestation.encoding.fields import FieldError, StrictMap, bytes_of, bytes_up_to, text
from attestation.errors import MalformedError
from attestation.steps import Step, at_step
from attestation.values import whole_seconds
from attestation.x509.certificates import (
    Certificate,
    load_certificate_untrusted,
    require_ca,
    require_in_window,
    require_issued_by,
    require_role,
    require_window,
)
from attestation.x509.crl import (
    RevocationList,
    parse_crl_untrusted,
    require_crl_in_window,
    require_crl_signed_by,
    require_not_revoked,
)
from attestation.x509.trust import TrustRoot

COLLATERAL_BYTES_MAX: Final = 2 * 1024 * 1024
_TEXTS: Final = frozenset(
    {
        "pck_crl_issuer_chain",
        "tcb_info_issuer_chain",
        "tcb_info",
        "qe_identity_issuer_chain",
        "qe_identity",
        "pck_certificate_chain",
    }
)
_FIELD_BYTES_MAX: Final = 2 * DOCUMENT_BYTES_MAX
_PCK_CAS_MAX: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorsements:
    """Raw collateral of one platform; nothing in it is verified.

    Attributes:
        pck_crl_issuer_chain: PEM; carried, but not used: the quote's own PCK CA must have signed the CRL.
        root_ca_crl: DER.
        pck_crl: DER.
        tcb_info_issuer_chain: PEM.
        tcb_info: the exact bytes that were signed.
        tcb_info_signature: raw ``r||s``, 64 bytes.
        qe_identity_issuer_chain: PEM.
        qe_identity: the exact bytes that were signed.
        qe_identity_signature: raw ``r||s``, 64 bytes.
        pck_certificate_chain: PEM; for quotes that do not carry their own chain.
    """

    pck_crl_issuer_chain: bytes
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: bytes
    tcb_info: bytes
    tcb_info_signature: bytes
    qe_identity_issuer_chain: bytes
    qe_identity: bytes
    qe_identity_signature: bytes
    pck_certificate_chain: bytes | None

    @property
    def digest(self) -> bytes:
        """32 bytes over every field: the key under which the verified object may be kept."""
        return digest("bondstone/endorsements/v1", self.to_value())

    def to_value(self) -> dict[str, Any]:
        """Return the fields as bytes, for CBOR. An absent PCK chain is left out."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) is not None}

    @classmethod
    def from_value_untrusted(cls, value: Any) -> Self:
        """Parse the fields that :meth:`to_value` made.

        Raises:
            MalformedError: ``collateral-malformed``.
        """
        names = [item.name for item in fields(cls)]
        members = StrictMap(value, error=_malformed, names=names, optional=("pck_certificate_chain",))
        return cls(
            pck_crl_issuer_chain=members.take("pck_crl_issuer_chain", _FIELD),
            root_ca_crl=members.take("root_ca_crl", _FIELD),
            pck_crl=members.take("pck_crl", _FIELD),
            tcb_info_issuer_chain=members.take("tcb_info_issuer_chain", _FIELD),
            tcb_info=members.take("tcb_info", _FIELD),
            tcb_info_signature=members.take("tcb_info_signature", _SIGNATURE),
            qe_identity_issuer_chain=members.take("qe_identity_issuer_chain", _FIELD),
            qe_identity=members.take("qe_identity", _FIELD),
            qe_identity_signature=members.take("qe_identity_signature", _SIGNATURE),
            pck_certificate_chain=members.take("pck_certificate_chain", _FIELD)
            if "pck_certificate_chain" in members
            else None,
        )

    def to_json(self) -> bytes:
        """Return the ``QuoteCollateralV3`` JSON that other tools pass around."""
        return json.dumps(self.to_json_value()).encode()

    def to_json_value(self) -> dict[str, str]:
        """Return the same as part of a document."""
        return {
            name: value.decode("utf-8") if name in _TEXTS else value.hex()
            for name, value in self.to_value().items()
        }

    @classmethod
    def from_json_untrusted(cls, data: bytes) -> Self:
        """Read ``QuoteCollateralV3`` JSON. Members that it does not know are ignored, as others do.

        Raises:
            MalformedError: ``collateral-malformed``.
        """
        value = parse_json_untrusted(data, code="collateral", bytes_max=COLLATERAL_BYTES_MAX)
        return cls.from_json_value_untrusted(value)

    @classmethod
    def from_json_value_untrusted(cls, value: Any) -> Self:
        """Read ``QuoteCollateralV3`` that is part of a parsed document; see :meth:`from_json_untrusted`."""
        members = StrictMap(value, error=_malformed)
        out = {
            item.name: members.take(item.name, _utf8 if item.name in _TEXTS else _hex)
            for item in fields(cls)
            if item.name != "pck_certificate_chain" or value.get(item.name) is not None
        }
        return cls.from_value_untrusted(out)


_FIELD: Final = bytes_up_to(_FIELD_BYTES_MAX)
_SIGNATURE: Final = bytes_of(64)


def _utf8(value: Any) -> bytes:
    try:
        return _TEXT(value).encode("utf-8")
    except UnicodeEncodeError as exc:
        raise FieldError("Unicode text") from exc


def _hex(value: Any) -> bytes:
    try:
        return binascii.unhexlify(_TEXT(value))
    except ValueError as exc:
        raise FieldError("text of hex digits") from exc


_TEXT: Final = text(COLLATERAL_BYTES_MAX)


def _malformed(path: str, text: str) -> MalformedError:
    return MalformedError("collateral-malformed", f"the collateral's {path or 'outer value'} {text}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PckCa:
    """A PCK CA that the pinned root issued and did not revoke, and that issued the collateral's PCK CRL."""

    certificate: Certificate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AuthenticEndorsements:
    """Endorsements with every signature and role checked, but not whether they are current.

    Made by :func:`authenticate_endorsements` only. Not enough for a verdict: see :meth:`require_current`.
    """

    root: TrustRoot
    digest: bytes
    root_crl: RevocationList
    pck_crl: RevocationList
    tcb_info_signer: Certificate
    tcb_info: TcbInfo
    qe_identity_signer: Certificate
    qe_identity: QeIdentity
    pck_certificate_chain: bytes | None
    # PCK CAs already checked against the root and both CRLs, by DER. Only authentic CAs are added, and Intel
    # has two; the bound is needed for mock roots. It never contains a verdict about a quote.
    _pck_cas: dict[bytes, PckCa] = field(default_factory=dict, repr=False)

    @property
    def valid_from(self) -> datetime:
        """The first second at which everything in the set was valid."""
        return max(
            self.tcb_info.issue_date,
            self.qe_identity.issue_date,
            self.root_crl.this_update,
            self.pck_crl.this_update,
            self.tcb_info_signer.not_before,
            self.qe_identity_signer.not_before,
        )

    @property
    def valid_until(self) -> datetime:
        """The last second at which everything in the set is valid."""
        return min(
            self.tcb_info.next_update,
            self.qe_identity.next_update,
            self.root_crl.last_valid,
            self.pck_crl.last_valid,
            self.tcb_info_signer.not_after,
            self.qe_identity_signer.not_after,
        )

    def require_current(self, now: datetime) -> "VerifiedEndorsements":
        """Return these endorsements as verified at ``now``.

        Raises:
            StaleEndorsementsError: something in the set is not yet, or no longer, valid.
        """
        now = whole_seconds(now)
        with at_step(Step.WINDOWS):
            require_crl_in_window(self.root_crl, now)
            require_in_window(self.root.certificate, now)
            require_in_window(self.tcb_info_signer, now)
            _require_document_window("tcb-info", self.tcb_info, now)
            require_in_window(self.qe_identity_signer, now)
            _require_document_window("qe-identity", self.qe_identity, now)
            require_crl_in_window(self.pck_crl, now)
        return VerifiedEndorsements(authentic=self, verified_at=now)

    def require_pck_ca(self, der: bytes) -> PckCa:
        """Return the PCK CA with these bytes, checked up to the root and both CRLs. Time is not checked.

        Raises:
            AttestationError: ``pck-ca-*`` or ``pck-crl-*``.
        """
        found = self._pck_cas.get(der)
        if found is not None:
            return found
        with at_step(Step.PCK_CHAIN):
            certificate = load_certificate_untrusted(der, role="pck-ca")
            require_issued_by(certificate, self.root.certificate)
            require_role(certificate, "SGX PCK Platform CA", "SGX PCK Processor CA")
            require_ca(certificate, intermediates_below=0)
            require_not_revoked(certificate, self.root_crl)
        with at_step(Step.PCK_CRL):
            require_crl_signed_by(self.pck_crl, certificate)
        out = PckCa(certificate=certificate)
        if len(self._pck_cas) < _PCK_CAS_MAX:
            self._pck_cas[der] = out
        return out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VerifiedEndorsements:
    """Authentic endorsements that were current at ``verified_at``. Made by ``require_current`` only."""

    authentic: AuthenticEndorsements
    verified_at: datetime

    @property
    def root(self) -> TrustRoot:
        return self.authentic.root

    @property
    def digest(self) -> bytes:
        """The digest of the raw endorsements, 32 bytes."""
        return self.authentic.digest

    @property
    def tcb_info(self) -> TcbInfo:
        return self.authentic.tcb_info

    @property
    def qe_identity(self) -> QeIdentity:
        return self.authentic.qe_identity

    @property
    def tcb_evaluation_data_number(self) -> int:
        """The smaller of TCB info's and QE identity's."""
        return min(self.tcb_info.tcb_evaluation_data_number, self.qe_identity.tcb_evaluation_data_number)

    @property
    def valid_from(self) -> datetime:
        """The first second at which everything in the set was valid."""
        return self.authentic.valid_from

    @property
    def valid_until(self) -> datetime:
        """The last second at which everything in the set is valid."""
        return self.authentic.valid_until

    def require_current(self, now: datetime) -> "VerifiedEndorsements":
        """Return these endorsements as verified at ``now``; windows are checked only if that is another time.

        Raises:
            StaleEndorsementsError: something in the set is not yet, or no longer, valid.
        """
        return self if now == self.verified_at else self.authentic.require_current(now)


def _require_document_window(code: str, document: TcbInfo | QeIdentity, now: datetime) -> None:
    require_window(code, f"the {code}", document.issue_date, document.next_update, now)


def verify_endorsements(
    endorsements: Endorsements, *, root: TrustRoot, now: datetime
) -> VerifiedEndorsements:
    """Verify a set of endorsements completely (steps 3 to 7).

    The PCK CRL's signature is checked with each quote's own PCK CA, once per CA.

    Raises:
        MalformedError: something is not what it claims to be.
        VerificationError: something is not genuine, revoked, or outside its window.
    """
    return authenticate_endorsements(endorsements, root=root).require_current(now)


def authenticate_endorsements(endorsements: Endorsements, *, root: TrustRoot) -> AuthenticEndorsements:
    """Check every signature and role of a set of endorsements (steps 3 to 6), but no time.

    Raises:
        MalformedError: something is not what it claims to be.
        VerificationError: something is not genuine, or revoked.
    """
    with at_step(Step.ROOT):
        tcb_signer = load_signer_untrusted(
            endorsements.tcb_info_issuer_chain, role="tcb-info-signer", root=root
        )
        qe_signer = load_signer_untrusted(
            endorsements.qe_identity_issuer_chain, role="qe-identity-signer", root=root
        )
    with at_step(Step.ROOT_CRL):
        root_crl = parse_crl_untrusted(endorsements.root_ca_crl, role="root-crl")
        require_crl_signed_by(root_crl, root.certificate)
    with at_step(Step.TCB_INFO):
        require_signer(tcb_signer, root, root_crl)
        require_document_signature(
            tcb_signer, endorsements.tcb_info_signature, endorsements.tcb_info, code="tcb-info"
        )
        tcb_info = parse_tcb_info_untrusted(endorsements.tcb_info)
    with at_step(Step.QE_IDENTITY):
        # Intel signs both documents with one certificate: the same bytes need no second check.
        if qe_signer.der != tcb_signer.der:
            require_signer(qe_signer, root, root_crl)
        require_document_signature(
            qe_signer, endorsements.qe_identity_signature, endorsements.qe_identity, code="qe-identity"
        )
        qe_identity = parse_qe_identity_untrusted(endorsements.qe_identity)
    with at_step(Step.PCK_CRL):
        pck_crl = parse_crl_untrusted(endorsements.pck_crl, role="pck-crl")
    return AuthenticEndorsements(
        root=root,
        digest=endorsements.digest,
        root_crl=root_crl,
        pck_crl=pck_crl,
        tcb_info_signer=tcb_signer,
        tcb_info=tcb_info,
        qe_identity_signer=qe_signer,
        qe_identity=qe_identity,
        pck_certificate_chain=endorsements.pck_certificate_chain,
    )
