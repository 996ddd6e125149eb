"""TCB evaluation: which levels a platform reaches, and the resulting status (A7 and A8).

Pure arithmetic over signed documents. It also reports which components are below the next better level, and
by how much, because an operator has to act on that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import ge
from typing import Final, TypeVar

from attestation.collateral.tcb_info import IsvLevel, QeIdentity, TcbInfo, TcbLevel, TdxModule
from attestation.errors import VerificationError
from attestation.quote.codec import TDReport
from attestation.steps import Step
from attestation.values import OUT_OF_DATE_STATUSES, TcbStatus
from attestation.x509.pck import PckExtension

_Level = TypeVar("_Level", TcbLevel, IsvLevel)
_VERSIONED_START: Final = 2
"""With a versioned TDX module, TDX components 0 and 1 are judged by the module's own levels."""

_CONFIGURATION_STATUSES: Final = frozenset(
    {TcbStatus.CONFIGURATION_NEEDED, TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED}
)
# Only used to find the "better" level for an explanation. No verdict depends on this order.
_PREFERENCE: Final = tuple(TcbStatus)
_SUPERSEDED: Final = OUT_OF_DATE_STATUSES | {TcbStatus.REVOKED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """One SVN that is too low for a level.

    Attributes:
        component: ``sgx[0]`` to ``sgx[15]``, ``tdx[0]`` to ``tdx[15]``, ``pcesvn`` or ``isvsvn``.
        label: Intel's name for it, such as ``OS/VMM TDX Late Microcode Update``; may be empty.
    """

    component: str
    label: str
    actual: int
    needed: int

    @property
    def short_by(self) -> int:
        return self.needed - self.actual


@dataclass(frozen=True, slots=True, kw_only=True)
class BetterLevel:
    """The nearest level with a better status, and what is missing for it."""

    status: TcbStatus
    tcb_date: datetime
    shortfalls: tuple[Shortfall, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachedLevel:
    """The level that a part of the platform reaches.

    Attributes:
        better: the nearest level with a better status; None if no level has one.
        superseded_at: tcbDate of the nearest level above that is not out of date: since then this one is out
            of date. None if this level is not out of date, or no level above it is better.
    """

    status: TcbStatus
    tcb_date: datetime
    advisory_ids: tuple[str, ...]
    better: BetterLevel | None
    superseded_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One pass of A8.2 to A8.4 for one TEE_TCB_SVN.

    Attributes:
        module: None if the TDX module has no version (TEE_TCB_SVN[1] is 0).
        status: after convergence.
        tcb_date: the earliest of the parts' dates.
    """

    tee_tcb_svn: bytes
    platform: ReachedLevel
    module: ReachedLevel | None
    qe: ReachedLevel
    status: TcbStatus
    tcb_date: datetime
    advisory_ids: tuple[str, ...]

    @property
    def parts(self) -> tuple[ReachedLevel, ...]:
        return tuple(part for part in (self.platform, self.module, self.qe) if part is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbEvaluation:
    """The evaluation of this platform by Intel's documents.

    Attributes:
        launch: with the SVNs at the TD's launch.
        current: with the SVNs of the module that runs now; None for TD report 1.0, which has no second SVN.
        tcb_evaluation_data_number: the smaller of TCB info's and QE identity's.
    """

    status: TcbStatus
    launch: Evaluation
    current: Evaluation | None
    tcb_evaluation_data_number: int

    @property
    def tcb_date(self) -> datetime:
        return self.launch.tcb_date

    @property
    def advisory_ids(self) -> tuple[str, ...]:
        return self.launch.advisory_ids


def evaluate_tcb(
    body: TDReport,
    pck: PckExtension,
    tcb_info: TcbInfo,
    qe_identity: QeIdentity,
    qe_isv_svn: int,
) -> TcbEvaluation:
    """Evaluate a TD report against the documents of its platform.

    The result's status may be Revoked; callers refuse that.

    Raises:
        VerificationError: no level is reached, or the TDX module is unknown: there is no status.
    """
    qe = _qe_level(qe_identity, qe_isv_svn)
    launch = _evaluate(body, body.tee_tcb_svn, pck, tcb_info, qe)
    current = None if body.tee_tcb_svn_2 is None else _evaluate(body, body.tee_tcb_svn_2, pck, tcb_info, qe)
    return TcbEvaluation(
        status=launch.status if current is None else relaunch(launch.status, current.status),
        launch=launch,
        current=current,
        tcb_evaluation_data_number=min(
            tcb_info.tcb_evaluation_data_number, qe_identity.tcb_evaluation_data_number
        ),
    )


def converge(platform: TcbStatus, parts: Sequence[TcbStatus]) -> TcbStatus:
    """Fold the module's and the QE's status into the platform's (A8.4).

    It is not "the most severe" status: with an out-of-date part, a need for configuration is kept, and a need
    for hardening is dropped.
    """
    if platform is TcbStatus.REVOKED or TcbStatus.REVOKED in parts:
        return TcbStatus.REVOKED
    if TcbStatus.OUT_OF_DATE not in parts or platform in OUT_OF_DATE_STATUSES:
        return platform
    if platform in _CONFIGURATION_STATUSES:
        return TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED
    return TcbStatus.OUT_OF_DATE


def relaunch(launch: TcbStatus, current: TcbStatus) -> TcbStatus:
    """Compare the status at launch with the one of the running module (A8.5).

    A revoked running module gives Revoked, whatever its status at launch; Intel's library omits this case.
    """
    if TcbStatus.REVOKED in {launch, current}:
        return TcbStatus.REVOKED
    if launch not in OUT_OF_DATE_STATUSES or current in OUT_OF_DATE_STATUSES:
        return launch
    if current in _CONFIGURATION_STATUSES or launch is TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED:
        return TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    return TcbStatus.TD_RELAUNCH_ADVISED


def _evaluate(
    body: TDReport, svn: bytes, pck: PckExtension, tcb_info: TcbInfo, qe: ReachedLevel
) -> Evaluation:
    module = _module_level(body, svn, tcb_info)
    platform = _platform_level(svn, pck, tcb_info)
    parts = [qe] if module is None else [module, qe]
    return Evaluation(
        tee_tcb_svn=svn,
        platform=platform,
        module=module,
        qe=qe,
        status=converge(platform.status, [part.status for part in parts]),
        tcb_date=min(part.tcb_date for part in (platform, *parts)),
        advisory_ids=tuple(
            sorted({advisory for part in (platform, *parts) for advisory in part.advisory_ids})
        ),
    )


# ---- platform ---------------------------------------------------------------------------------------


def _platform_level(svn: bytes, pck: PckExtension, tcb_info: TcbInfo) -> ReachedLevel:
    start = _VERSIONED_START if svn[1] > 0 else 0
    levels = tcb_info.tcb_levels

    def shortfalls(level: TcbLevel) -> tuple[Shortfall, ...]:
        return _platform_shortfalls(svn, start, pck, level, tcb_info.labels)

    for index, level in enumerate(levels):
        # Component by component, all sixteen; comparing tuples would be lexicographic and wrong.
        if (
            all(map(ge, pck.tcb_components, level.sgx_components))
            and pck.pce_svn >= level.pce_svn
            and all(map(ge, svn[start:], level.tdx_components[start:]))
        ):
            return _reached(levels, index, shortfalls)
    nearest = min(map(shortfalls, levels), key=lambda found: sum(shortfall.short_by for shortfall in found))
    raise VerificationError(
        "tcb-level-not-found",
        "the platform's SVNs are below every TCB level that Intel supports: " + _listed(nearest),
        step=Step.LEVEL,
        values={"shortfalls": [shortfall_value(shortfall) for shortfall in nearest]},
    )


def _platform_shortfalls(
    svn: bytes, start: int, pck: PckExtension, level: TcbLevel, labels: Mapping[str, str]
) -> tuple[Shortfall, ...]:
    found = [
        Shortfall(
            component=f"sgx[{index}]", label=labels.get(f"sgx[{index}]", ""), actual=actual, needed=needed
        )
        for index, (actual, needed) in enumerate(zip(pck.tcb_components, level.sgx_components, strict=True))
        if actual < needed
    ]
    if pck.pce_svn < level.pce_svn:
        found.append(Shortfall(component="pcesvn", label="", actual=pck.pce_svn, needed=level.pce_svn))
    found += [
        Shortfall(
            component=f"tdx[{index}]",
            label=labels.get(f"tdx[{index}]", ""),
            actual=actual,
            needed=needed,
        )
        for index, (actual, needed) in enumerate(zip(svn, level.tdx_components, strict=True))
        if index >= start and actual < needed
    ]
    return tuple(found)


def _reached(
    levels: tuple[_Level, ...], index: int, shortfalls: Callable[[_Level], tuple[Shortfall, ...]]
) -> ReachedLevel:
    """Return the result of reaching ``levels[index]``; the levels before it were not reached."""
    level = levels[index]
    # Nearest first: upwards from the level reached.
    above = levels[:index][::-1]
    better = next((item for item in above if _is_better(item.status, level.status)), None)
    newer = next((item for item in above if item.status not in _SUPERSEDED), None)
    return ReachedLevel(
        status=level.status,
        tcb_date=level.tcb_date,
        advisory_ids=level.advisory_ids,
        better=None
        if better is None
        else BetterLevel(status=better.status, tcb_date=better.tcb_date, shortfalls=shortfalls(better)),
        superseded_at=None if newer is None or level.status not in OUT_OF_DATE_STATUSES else newer.tcb_date,
    )


def _is_better(status: TcbStatus, than: TcbStatus) -> bool:
    return _PREFERENCE.index(status) < _PREFERENCE.index(than)


def _listed(shortfalls: Sequence[Shortfall]) -> str:
    return ", ".join(f"{item.component} is {item.actual}, needs {item.needed}" for item in shortfalls)


def shortfall_value(item: Shortfall) -> dict[str, object]:
    """Return one shortfall for JSON."""
    return {
        "component": item.component,
        "label": item.label,
        "actual": item.actual,
        "needed": item.needed,
        "short_by": item.short_by,
    }


# ---- module and QE ----------------------------------------------------------------------------------


def _module_level(body: TDReport, svn: bytes, tcb_info: TcbInfo) -> ReachedLevel | None:
    version = svn[1]
    module = _module_identity(version, tcb_info)
    if body.mr_signer_seam != module.mr_signer:
        raise VerificationError(
            "tdx-module-signer",
            "the TDX module is not signed by the signer that Intel names",
            step=Step.MODULE,
            values={"expected": module.mr_signer.hex(), "actual": body.mr_signer_seam.hex()},
        )
    # Intel requires zero on both sides, dcap-qvl compares under the mask. Zero satisfies both.
    if any(body.seam_attributes) or any(module.attributes):
        raise VerificationError(
            "tdx-module-attributes",
            "SEAMATTRIBUTES of the TDX module are not all zero",
            step=Step.MODULE,
            values={"expected": bytes(8).hex(), "actual": body.seam_attributes.hex()},
        )
    if version == 0:
        return None
    return _isv_level(module.levels, svn[0], f"TDX module {module.id}", "tdx-module")


def _module_identity(version: int, tcb_info: TcbInfo) -> TdxModule:
    if version == 0:
        return tcb_info.tdx_module
    wanted = f"TDX_{version:02X}"
    for module in tcb_info.tdx_module_identities:
        if module.id == wanted:
            return module
    raise VerificationError(
        "tdx-module-unknown",
        f"the TCB info describes no TDX module {wanted}",
        step=Step.MODULE,
        values={
            "expected": wanted,
            "actual": [module.id for module in tcb_info.tdx_module_identities],
        },
    )


def _qe_level(identity: QeIdentity, isv_svn: int) -> ReachedLevel:
    return _isv_level(identity.tcb_levels, isv_svn, "quoting enclave", "qe")


def _isv_level(levels: tuple[IsvLevel, ...], isv_svn: int, what: str, code: str) -> ReachedLevel:
    for index, level in enumerate(levels):
        if isv_svn >= level.isv_svn:
            return _reached(levels, index, lambda above: (_isv_shortfall(isv_svn, above),))
    shortfall = _isv_shortfall(isv_svn, levels[-1])
    raise VerificationError(
        f"{code}-level-not-found",
        f"the {what}'s isvsvn is below every level that Intel supports: {_listed([shortfall])}",
        step=Step.QE if code == "qe" else Step.MODULE,
        values={"shortfalls": [shortfall_value(shortfall)]},
    )


def _isv_shortfall(isv_svn: int, level: IsvLevel) -> Shortfall:
    return Shortfall(component="isvsvn", label="", actual=isv_svn, needed=level.isv_svn)
