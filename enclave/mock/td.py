"""A mock trust domain: chosen measurements, quotes of real layout, keys of the mock authority.

It has the interface of a real TD: REPORTDATA in, quote bytes out, and the same verifier verifies them. It
also mocks the quoting enclave: an attestation key per TD, a QE report that binds it, and the platform's PCK
key, which signs that report.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from attestation.eventlog.ccel import encode_ccel
from attestation.eventlog.events import Event, extend, replay
from attestation.quote.codec import (
    BODY_TD_10,
    CERTIFICATION_PCK_CHAIN,
    TEE_TDX,
    EnclaveReport,
    QuoteHeader,
    TDReport,
    encode_enclave_report,
    encode_quote,
    encode_signed_range,
)
from attestation.values import mask_of
from enclave.attester import REPORT_DATA_BYTES
from enclave.mock.pki import PCKValues, Signer, raw_public_key, sign_raw
from enclave.mock.statement import (
    MR_SIGNER_SEAM,
    QE_ATTRIBUTES,
    QE_ISV_PROD_ID,
    QE_ISV_SVN,
    QE_MR_ENCLAVE,
    QE_MR_SIGNER,
    SEAM_ATTRIBUTES,
    TEE_TCB_SVN,
)

REGISTER_BYTES: Final = 48
REGISTERS: Final = 4
ZERO_REGISTERS: Final = (bytes(REGISTER_BYTES),) * REGISTERS

# The value in quotes of Intel's QE: 00 01 .. 1f.
_QE_AUTH_DATA: Final = bytes(range(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class MockPlatform:
    """One machine: its provisioning certification key, and the contents of its certificate.

    Attributes:
        issuers: PEM of the platform CA and of the root, in this order.
    """

    pck: Signer
    values: PCKValues
    issuers: tuple[bytes, bytes]

    @property
    def chain_pem(self) -> bytes:
        """The PCK chain as in a quote: leaf to root, and the NUL that Intel's QE adds."""
        return self.pck.certificate_pem + b"".join(self.issuers) + b"\0"

    @property
    def serial_number(self) -> int:
        """The PCK certificate's serial, as a CRL names it."""
        return self.pck.certificate.serial_number


@dataclass(frozen=True, slots=True, kw_only=True)
class TDSettings:
    """The launch settings of a TD. Measurements are 48 bytes, attribute fields are integers.

    Attributes:
        quote_version: 4 (TD report 1.0) or 5.
        report_version: ``1.0`` or ``1.5``; version 4 carries 1.0 only.
        tee_tcb_svn: SVNs at launch, 16 bytes.
        tee_tcb_svn_2: SVNs of the module running now; only in report 1.5, by default the same as at launch.
    """

    mrtd: bytes = hashlib.sha384(b"bondstone mock firmware").digest()
    rtmrs: tuple[bytes, bytes, bytes, bytes] = ZERO_REGISTERS
    td_attributes: int = mask_of(frozenset({"SEPT_VE_DISABLE"}))
    xfam: int = 0xE7
    mr_config_id: bytes = bytes(48)
    mr_owner: bytes = bytes(48)
    mr_owner_config: bytes = bytes(48)
    mr_seam: bytes = hashlib.sha384(b"bondstone mock TDX module").digest()
    mr_signer_seam: bytes = MR_SIGNER_SEAM
    seam_attributes: bytes = SEAM_ATTRIBUTES
    mr_service_td: bytes = bytes(48)
    tee_tcb_svn: bytes = TEE_TCB_SVN
    tee_tcb_svn_2: bytes | None = None
    quote_version: int = 4
    report_version: str = "1.0"

    def __post_init__(self) -> None:
        if (self.quote_version, self.report_version) not in {(4, "1.0"), (5, "1.0"), (5, "1.5")}:
            raise ValueError(
                f"no quote of version {self.quote_version} carries a TD report "
                f"{self.report_version}: use 4 with 1.0, or 5 with 1.0 or 1.5"
            )
        measurements = (
            self.mrtd, *self.rtmrs, self.mr_config_id, self.mr_owner, self.mr_owner_config,
            self.mr_seam, self.mr_signer_seam, self.mr_service_td,
        )  # fmt: skip
        if len(self.rtmrs) != REGISTERS or any(len(m) != REGISTER_BYTES for m in measurements):
            raise ValueError(f"a measurement has {REGISTER_BYTES} bytes, and there are four RTMRs")

    def report(self, rtmrs: tuple[bytes, bytes, bytes, bytes], report_data: bytes) -> TDReport:
        """Return the TD report with these registers and this REPORTDATA."""
        report = TDReport(
            tee_tcb_svn=self.tee_tcb_svn,
            mr_seam=self.mr_seam,
            mr_signer_seam=self.mr_signer_seam,
            seam_attributes=self.seam_attributes,
            td_attributes=self.td_attributes,
            xfam=self.xfam,
            mrtd=self.mrtd,
            mr_config_id=self.mr_config_id,
            mr_owner=self.mr_owner,
            mr_owner_config=self.mr_owner_config,
            rtmrs=rtmrs,
            report_data=report_data,
        )
        if self.report_version == "1.0":
            assert report.body_type == BODY_TD_10, "what version 4 carries"
            return report
        return replace(
            report,
            tee_tcb_svn_2=self.tee_tcb_svn_2 or self.tee_tcb_svn,
            mr_service_td=self.mr_service_td,
        )


class MockTD:
    """An :class:`enclave.attester.Attester` whose quotes verify under the mock root only.

    Args:
        platform: the machine it runs on.
        settings: its launch settings.
        boot_events: the events that firmware and loader extended. With them, RTMR0 to RTMR3 start as their
            replay and :meth:`event_log` returns their CCEL. Without them, the registers start with the values
            in ``settings``, and there is no log, because no log could explain them.
    """

    def __init__(
        self,
        *,
        platform: MockPlatform,
        settings: TDSettings,
        boot_events: Sequence[Event] | None = None,
    ) -> None:
        self._platform = platform
        self._settings = settings
        self._attestation_key = ec.generate_private_key(ec.SECP256R1())
        self._ccel = None if boot_events is None else encode_ccel(boot_events)
        self._rtmrs = settings.rtmrs if boot_events is None else replay(boot_events)

    @property
    def mock(self) -> bool:
        return True

    @property
    def provider(self) -> str:
        return "mock"

    @property
    def rtmrs(self) -> tuple[bytes, bytes, bytes, bytes]:
        return self._rtmrs

    def extend_rtmr(self, index: int, digest: bytes) -> None:
        """RTMR[index] := SHA-384(RTMR[index] || digest), as TDG.MR.RTMR.EXTEND does.

        No CCEL contains an extension at run time: the caller that extends keeps the log.

        Raises:
            ValueError: no such register, or the digest's length is not 48 bytes.
        """
        if not 0 <= index < REGISTERS:
            raise ValueError(f"there is no RTMR{index}")
        if len(digest) != REGISTER_BYTES:
            raise ValueError(f"an RTMR is extended with {REGISTER_BYTES} bytes, not {len(digest)}")
        registers = list(self._rtmrs)
        registers[index] = extend(registers[index], digest)
        self._rtmrs = (registers[0], registers[1], registers[2], registers[3])

    def quote(self, report_data: bytes) -> bytes:
        """Return a quote over exactly 64 bytes of REPORTDATA.

        Raises:
            ValueError: another length, which the TDX module would refuse too.
        """
        if len(report_data) != REPORT_DATA_BYTES:
            raise ValueError(f"REPORTDATA has {REPORT_DATA_BYTES} bytes, not {len(report_data)}")
        header = QuoteHeader(version=self._settings.quote_version, tee_type=TEE_TDX)
        signed = encode_signed_range(header, self._settings.report(self._rtmrs, report_data))
        attestation_key = raw_public_key(self._attestation_key)
        qe_report = encode_enclave_report(_qe_report(self._platform.values, attestation_key))
        return encode_quote(
            signed,
            signature=sign_raw(self._attestation_key, signed),
            attestation_key=attestation_key,
            qe_report=qe_report,
            qe_report_signature=self._platform.pck.sign_raw(qe_report),
            qe_auth_data=_QE_AUTH_DATA,
            certification_type=CERTIFICATION_PCK_CHAIN,
            certification_data=self._platform.chain_pem,
        )

    def event_log(self) -> bytes | None:
        """Return the CCEL of the boot events, or None if the registers were chosen instead."""
        return self._ccel


def _qe_report(values: PCKValues, attestation_key: bytes) -> EnclaveReport:
    binding = hashlib.sha256(attestation_key + _QE_AUTH_DATA).digest()
    return EnclaveReport(
        cpu_svn=bytes(values.sgx_svns),
        misc_select=0,
        attributes=QE_ATTRIBUTES,
        mr_enclave=QE_MR_ENCLAVE,
        mr_signer=QE_MR_SIGNER,
        isv_prod_id=QE_ISV_PROD_ID,
        isv_svn=QE_ISV_SVN,
        report_data=binding + bytes(32),
    )
