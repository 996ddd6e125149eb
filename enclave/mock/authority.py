"""The mock quoting authority: what Intel is to real platforms, for mock ones.

It holds all private keys, so it belongs on the machine of a developer who tries the service out, and its root
must never be pinned anywhere else. ``TrustRoot`` marks it as mock by comparing it with Intel's.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestation import files
from attestation.collateral.endorsements import Endorsements
from attestation.collateral.evaluation_numbers import SignedEvaluationNumbers
from attestation.errors import MalformedError
from attestation.eventlog.events import Event
from attestation.files import FileError
from attestation.quote.codec import Quote
from attestation.x509.certificates import load_certificate_untrusted
from attestation.x509.pck import parse_pck_extension_untrusted
from attestation.x509.trust import TrustRoot
from enclave.errors import MockAuthorityError
from enclave.mock.pki import (
    PCKValues,
    Signer,
    make_crl,
    make_pck,
    make_platform_ca,
    make_root,
    make_tcb_signer,
)
from enclave.mock.statement import Statement
from enclave.mock.td import MockPlatform, MockTD, TDSettings

ROOT_FILE: Final = "root.pem"
PLATFORM_CA_FILE: Final = "platform-ca.pem"
TCB_SIGNING_FILE: Final = "tcb-signing.pem"
PCK_FILE: Final = "pck.pem"
TRUST_ROOT_FILE: Final = "trust-root.der"

FILE_BYTES_MAX: Final = 16 * 1024

# Certificates start early, so that a verifier whose clock is behind the maker's still accepts them.
_CERTIFICATES_BEFORE: Final = timedelta(days=30)
_ROOT_AFTER: Final = timedelta(days=30 * 365)
_CERTIFICATES_AFTER: Final = timedelta(days=10 * 365)


@dataclass(frozen=True, slots=True, kw_only=True)
class MockAuthority:
    """Root, platform CA, TCB signing certificate, and one platform that TDs run on by default."""

    root: Signer
    platform_ca: Signer
    tcb_signer: Signer
    platform: MockPlatform

    @classmethod
    def create(cls, now: datetime) -> "MockAuthority":
        """Return a new authority with keys of its own, valid around ``now`` (aware UTC)."""
        start = now.astimezone(UTC) - _CERTIFICATES_BEFORE
        root = make_root(start, now + _ROOT_AFTER)
        platform_ca = make_platform_ca(root, start, now + _CERTIFICATES_AFTER)
        values = PCKValues()
        return cls(
            root=root,
            platform_ca=platform_ca,
            tcb_signer=make_tcb_signer(root, start, now + _CERTIFICATES_AFTER),
            platform=MockPlatform(
                pck=make_pck(platform_ca, values, start, now + _CERTIFICATES_AFTER),
                values=values,
                issuers=(platform_ca.certificate_pem, root.certificate_pem),
            ),
        )

    def create_platform(
        self,
        now: datetime,
        values: PCKValues | None = None,
        *,
        valid_for: timedelta = _CERTIFICATES_AFTER,
    ) -> MockPlatform:
        """Return another platform, with its own PCK key and certificate."""
        values = values or PCKValues()
        start = now.astimezone(UTC) - _CERTIFICATES_BEFORE
        return MockPlatform(
            pck=make_pck(self.platform_ca, values, start, now + valid_for),
            values=values,
            issuers=(self.platform_ca.certificate_pem, self.root.certificate_pem),
        )

    @property
    def trust_root(self) -> TrustRoot:
        """The root to pin, explicitly, where mock evidence shall be accepted."""
        return TrustRoot.from_bytes_untrusted(self.root.certificate_der)

    def endorsements(
        self,
        now: datetime,
        statement: Statement | None = None,
        *,
        platform: MockPlatform | None = None,
    ) -> Endorsements:
        """Return signed collateral whose windows hold at ``now``.

        Within one UTC day the same authority, statement and platform give the same bytes.
        """
        statement = statement or Statement()
        values = (platform or self.platform).values
        issued_at = statement.issued_at(now)
        next_update = issued_at + statement.valid_for
        tcb_info = statement.tcb_info(fmspc=values.fmspc, pce_id=values.pce_id, issued_at=issued_at)
        qe_identity = statement.qe_identity(issued_at=issued_at)
        tcb_chain = self.tcb_signer.certificate_pem + self.root.certificate_pem
        return Endorsements(
            pck_crl_issuer_chain=self.platform_ca.certificate_pem + self.root.certificate_pem,
            root_ca_crl=make_crl(
                self.root,
                statement.revoked_ca_serials,
                issued_at,
                issued_at + statement.root_crl_valid_for,
            ),
            pck_crl=make_crl(self.platform_ca, statement.revoked_pck_serials, issued_at, next_update),
            tcb_info_issuer_chain=tcb_chain,
            tcb_info=tcb_info,
            tcb_info_signature=self.tcb_signer.sign_raw(tcb_info),
            qe_identity_issuer_chain=tcb_chain,
            qe_identity=qe_identity,
            qe_identity_signature=self.tcb_signer.sign_raw(qe_identity),
            pck_certificate_chain=None,
        )

    def evaluation_numbers(
        self, now: datetime, statement: Statement | None = None
    ) -> SignedEvaluationNumbers:
        """Return the signed list of published evaluation data numbers, valid at ``now``."""
        statement = statement or Statement()
        issued_at = statement.issued_at(now)
        document = statement.evaluation_numbers(issued_at=issued_at)
        return SignedEvaluationNumbers(
            document=document,
            signature=self.tcb_signer.sign_raw(document),
            issuer_chain=self.tcb_signer.certificate_pem + self.root.certificate_pem,
            root_crl=make_crl(
                self.root,
                statement.revoked_ca_serials,
                issued_at,
                issued_at + statement.root_crl_valid_for,
            ),
        )

    def endorsements_for(self, quote: Quote, now: datetime) -> Endorsements:  # noqa: ARG002
        """Return :meth:`endorsements` of the default platform, as an endorsements source."""
        return self.endorsements(now)

    def create_td(
        self,
        *,
        mrtd: bytes | None = None,
        rtmrs: tuple[bytes, bytes, bytes, bytes] | None = None,
        attributes: int | None = None,
        settings: TDSettings | None = None,
        platform: MockPlatform | None = None,
        boot_events: Sequence[Event] | None = None,
    ) -> MockTD:
        """Return a mock TD, see :class:`enclave.mock.td.MockTD`.

        Args:
            mrtd: 48 bytes; like the next two, it replaces the value in ``settings``.
            rtmrs: four times 48 bytes.
            attributes: TDATTRIBUTES as an integer.
            settings: everything else; by default, a TD that the default rules accept.
            platform: the machine it runs on, by default the authority's own.
            boot_events: the events that firmware and loader extended.
        """
        settings = settings or TDSettings()
        return MockTD(
            platform=platform or self.platform,
            settings=replace(
                settings,
                mrtd=settings.mrtd if mrtd is None else mrtd,
                rtmrs=settings.rtmrs if rtmrs is None else rtmrs,
                td_attributes=settings.td_attributes if attributes is None else attributes,
            ),
            boot_events=boot_events,
        )

    # ---- keeping it between processes ---------------------------------------------------------------

    def save(self, directory: Path) -> None:
        """Write keys and certificates, readable by the owner only.

        Raises:
            MockAuthorityError: an authority is already there, or the directory cannot be written.
        """
        try:
            files.make_directory(directory, mode=0o700)
            for name, signer in (
                (ROOT_FILE, self.root),
                (PLATFORM_CA_FILE, self.platform_ca),
                (TCB_SIGNING_FILE, self.tcb_signer),
                (PCK_FILE, self.platform.pck),
            ):
                _write_new(directory / name, _signer_to_pem(signer))
            _write_new(directory / TRUST_ROOT_FILE, self.root.certificate_der)
        except FileError as exc:
            hint = "; give another directory, or use the existing authority"
            raise MockAuthorityError(
                f"the mock authority: {exc}{hint if exc.errno == errno.EEXIST else ''}"
            ) from exc

    @classmethod
    def load(cls, directory: Path) -> "MockAuthority":
        """Return the authority that :meth:`save` wrote.

        Raises:
            MockAuthorityError: a file is missing, too large, or has the wrong content.
        """
        root = _read_signer(directory / ROOT_FILE)
        platform_ca = _read_signer(directory / PLATFORM_CA_FILE)
        pck = _read_signer(directory / PCK_FILE)
        return cls(
            root=root,
            platform_ca=platform_ca,
            tcb_signer=_read_signer(directory / TCB_SIGNING_FILE),
            platform=MockPlatform(
                pck=pck,
                values=_pck_values(directory / PCK_FILE, pck),
                issuers=(platform_ca.certificate_pem, root.certificate_pem),
            ),
        )


def _pck_values(path: Path, pck: Signer) -> PCKValues:
    """Return the platform's values from its certificate, which is their only record."""
    try:
        certificate = load_certificate_untrusted(pck.certificate_der, role="pck")
        if certificate.sgx_extension is None:
            raise MockAuthorityError(f"the certificate in {path} has no SGX extension")
        said = parse_pck_extension_untrusted(certificate.sgx_extension)
    except MalformedError as exc:
        raise MockAuthorityError(f"the certificate in {path} is not a PCK certificate: {exc}") from exc
    if said.platform_instance_id is None:
        raise MockAuthorityError(f"the certificate in {path} names no platform instance")
    return PCKValues(
        ppid=said.ppid,
        sgx_svns=said.tcb_components,
        pce_svn=said.pce_svn,
        pce_id=said.pce_id,
        fmspc=said.fmspc,
        platform_instance_id=said.platform_instance_id,
    )


def _signer_to_pem(signer: Signer) -> bytes:
    key = signer.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return key + signer.certificate_pem


def _write_new(path: Path, data: bytes) -> None:
    # A new file only: if two authorities each overwrote half of the files, neither set would fit together.
    files.create(path, data)


def _read_signer(path: Path) -> Signer:
    try:
        data = files.read_bytes(path, bytes_max=FILE_BYTES_MAX, secret=True)
    except FileError as exc:
        raise MockAuthorityError(
            f"the mock authority: {exc}; `bondstone dev` makes one, or name its directory"
        ) from exc
    try:
        key = serialization.load_pem_private_key(data, password=None)
        certificate = x509.load_pem_x509_certificate(data)
    except (ValueError, TypeError) as exc:
        raise MockAuthorityError(f"{path} does not hold a PEM key and certificate") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MockAuthorityError(f"the key in {path} is not on P-256")
    if key.public_key() != certificate.public_key():
        raise MockAuthorityError(f"the key in {path} does not belong to its certificate")
    return Signer(key=key, certificate=certificate)
