"""A quoting authority's statement about its platforms at one moment: TCB info and QE identity.

A :class:`Statement` holds everything that a test may want to change (levels, statuses, dates,
evaluation numbers, revocations). The documents are PCS v4's JSON (A5), minified, in a fixed
member order: the signature covers exactly these bytes.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from attestation.values import TcbStatus, timestamp

MR_SIGNER_SEAM: Final = bytes(48)
SEAM_ATTRIBUTES: Final = bytes(8)
QE_MR_SIGNER: Final = hashlib.sha256(b"bondstone mock quoting enclave signer").digest()
QE_MR_ENCLAVE: Final = hashlib.sha256(b"bondstone mock quoting enclave").digest()
QE_ISV_PROD_ID: Final = 2
QE_ISV_SVN: Final = 4
# INIT, MODE64BIT and PROVISION_KEY, with x87, SSE and the rest of XCR0 that Intel's QE runs with.
QE_ATTRIBUTES: Final = bytes.fromhex("1500000000000000e700000000000000")

MODULE_MAJOR: Final = 1
MODULE_ISV_SVN: Final = 5
TEE_TCB_SVN: Final = bytes([MODULE_ISV_SVN, MODULE_MAJOR, 3]) + bytes(13)

_CURRENT: Final = datetime(2026, 5, 13, tzinfo=UTC)
_SUPERSEDED: Final = datetime(2024, 3, 13, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformLevel:
    """One TCB level of the TCB info. SVNs are the minimum for a platform."""

    sgx_svns: tuple[int, ...]
    pce_svn: int
    tdx_svns: tuple[int, ...]
    date: datetime
    status: TcbStatus
    advisory_ids: tuple[str, ...] = ()

    def to_value(self) -> dict[str, Any]:
        tcb = {
            "sgxtcbcomponents": [{"svn": svn} for svn in self.sgx_svns],
            "pcesvn": self.pce_svn,
            "tdxtcbcomponents": [{"svn": svn} for svn in self.tdx_svns],
        }
        return _level(tcb, self.date, self.status, self.advisory_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class SVNLevel:
    """One level of a TDX module identity or of the QE identity."""

    isv_svn: int
    date: datetime
    status: TcbStatus
    advisory_ids: tuple[str, ...] = ()

    def to_value(self) -> dict[str, Any]:
        return _level({"isvsvn": self.isv_svn}, self.date, self.status, self.advisory_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleIdentity:
    """A TDX module of one major version."""

    major: int
    levels: tuple[SVNLevel, ...]
    mr_signer: bytes = MR_SIGNER_SEAM
    attributes: bytes = SEAM_ATTRIBUTES
    attributes_mask: bytes = b"\xff" * 8

    def to_value(self) -> dict[str, Any]:
        return {
            "id": f"TDX_{self.major:02X}",
            **_module(self.mr_signer, self.attributes, self.attributes_mask),
            "tcbLevels": [level.to_value() for level in self.levels],
        }


PLATFORM_UP_TO_DATE: Final = PlatformLevel(
    sgx_svns=(7,) * 8 + (0,) * 8,
    pce_svn=13,
    tdx_svns=(MODULE_ISV_SVN, 0, 3) + (0,) * 13,
    date=_CURRENT,
    status=TcbStatus.UP_TO_DATE,
)
PLATFORM_OUT_OF_DATE: Final = PlatformLevel(
    sgx_svns=(5,) * 8 + (0,) * 8,
    pce_svn=11,
    tdx_svns=(3, 0, 2) + (0,) * 13,
    date=_SUPERSEDED,
    status=TcbStatus.OUT_OF_DATE,
    advisory_ids=("MOCK-SA-00001",),
)
MODULE_LEVELS: Final = (
    SVNLevel(isv_svn=MODULE_ISV_SVN, date=_CURRENT, status=TcbStatus.UP_TO_DATE),
    SVNLevel(
        isv_svn=3,
        date=_SUPERSEDED,
        status=TcbStatus.OUT_OF_DATE,
        advisory_ids=("MOCK-SA-00002",),
    ),
)
QE_LEVELS: Final = (
    SVNLevel(isv_svn=QE_ISV_SVN, date=_CURRENT, status=TcbStatus.UP_TO_DATE),
    SVNLevel(
        isv_svn=2,
        date=_SUPERSEDED,
        status=TcbStatus.OUT_OF_DATE,
        advisory_ids=("MOCK-SA-00003",),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """Everything in the authority's collateral except the platform's own values.

    Attributes:
        issued_before: the documents are issued this long before the UTC midnight that precedes ``now``.
            Whole days, so that all nodes of one day make the same bytes.
        valid_for: from issue to next update; Intel's is 30 days.
        root_crl_valid_for: Intel's is about a year.
        tcb_evaluation_data_number: of the TCB info.
        qe_evaluation_data_number: of the QE identity.
        published_numbers: the published evaluation data numbers, each with the dates of its recovery event
            and of its levels.
        revoked_pck_serials: on the PCK CRL.
        revoked_ca_serials: on the root CRL.
    """

    platform_levels: tuple[PlatformLevel, ...] = (PLATFORM_UP_TO_DATE, PLATFORM_OUT_OF_DATE)
    modules: tuple[ModuleIdentity, ...] = (ModuleIdentity(major=MODULE_MAJOR, levels=MODULE_LEVELS),)
    qe_levels: tuple[SVNLevel, ...] = QE_LEVELS
    tcb_evaluation_data_number: int = 20
    qe_evaluation_data_number: int = 20
    published_numbers: tuple[tuple[int, datetime, datetime], ...] = (
        (20, _CURRENT - timedelta(days=1), _CURRENT),
        (19, _SUPERSEDED - timedelta(days=1), _SUPERSEDED),
    )
    issued_before: timedelta = timedelta(days=1)
    valid_for: timedelta = timedelta(days=30)
    root_crl_valid_for: timedelta = timedelta(days=365)
    revoked_pck_serials: frozenset[int] = frozenset()
    revoked_ca_serials: frozenset[int] = frozenset()

    def issued_at(self, now: datetime) -> datetime:
        """Return the issue time of everything made at ``now``."""
        midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight - self.issued_before

    def tcb_info(self, *, fmspc: bytes, pce_id: bytes, issued_at: datetime) -> bytes:
        """Return the exact bytes of the ``tcbInfo`` member."""
        return _minified(
            {
                "id": "TDX",
                "version": 3,
                "issueDate": timestamp(issued_at),
                "nextUpdate": timestamp(issued_at + self.valid_for),
                "fmspc": fmspc.hex(),
                "pceId": pce_id.hex(),
                "tcbType": 0,
                "tcbEvaluationDataNumber": self.tcb_evaluation_data_number,
                "tdxModule": _module(MR_SIGNER_SEAM, SEAM_ATTRIBUTES, b"\xff" * 8),
                "tdxModuleIdentities": [module.to_value() for module in self.modules],
                "tcbLevels": [level.to_value() for level in self.platform_levels],
            }
        )

    def qe_identity(self, *, issued_at: datetime) -> bytes:
        """Return the exact bytes of the ``enclaveIdentity`` member."""
        return _minified(
            {
                "id": "TD_QE",
                "version": 2,
                "issueDate": timestamp(issued_at),
                "nextUpdate": timestamp(issued_at + self.valid_for),
                "tcbEvaluationDataNumber": self.qe_evaluation_data_number,
                "miscselect": "00000000",
                "miscselectMask": "FFFFFFFF",
                # Intel's mask: everything but MODE64BIT must match, so a debug QE never does.
                "attributes": "11000000000000000000000000000000",
                "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
                "mrsigner": QE_MR_SIGNER.hex().upper(),
                "isvprodid": QE_ISV_PROD_ID,
                "tcbLevels": [level.to_value() for level in self.qe_levels],
            }
        )

    def evaluation_numbers(self, *, issued_at: datetime) -> bytes:
        """Return the exact bytes of the ``tcbEvaluationDataNumbers`` member."""
        return _minified(
            {
                "id": "TDX",
                "version": 1,
                "issueDate": timestamp(issued_at),
                "nextUpdate": timestamp(issued_at + self.valid_for),
                "tcbEvalNumbers": [
                    {
                        "tcbEvaluationDataNumber": number,
                        "tcbRecoveryEventDate": timestamp(event),
                        "tcbDate": timestamp(tcb_date),
                    }
                    for number, event, tcb_date in self.published_numbers
                ],
            }
        )


def _level(
    tcb: dict[str, Any], date: datetime, status: TcbStatus, advisory_ids: tuple[str, ...]
) -> dict[str, Any]:
    value = {"tcb": tcb, "tcbDate": timestamp(date), "tcbStatus": status.value}
    # PCS omits the member if it would be empty.
    return value | ({"advisoryIDs": list(advisory_ids)} if advisory_ids else {})


def _module(mr_signer: bytes, attributes: bytes, mask: bytes) -> dict[str, Any]:
    return {
        "mrsigner": mr_signer.hex().upper(),
        "attributes": attributes.hex().upper(),
        "attributesMask": mask.hex().upper(),
    }


def _minified(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()
