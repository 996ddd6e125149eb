"""Intel's signed statements about TCB levels: TCB info (version 3) and QE identity (version 2).

A5.1 and A5.2. Parsed only after the signature over the same bytes has been checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from attestation.collateral.signed_json import (
    ARRAY,
    TEXT,
    UINT16,
    UINT32,
    advisory_ids,
    hex_of,
    parse_json_untrusted,
    read_map,
    time,
)
from attestation.encoding.fields import StrictMap
from attestation.errors import MalformedError
from attestation.values import OUT_OF_DATE_STATUSES, RELAUNCH_STATUSES, TcbStatus

COMPONENTS: Final = 16
SVN_MAX: Final = 255
LABEL_LENGTH_MAX: Final = 64
_PLATFORM_STATUSES: Final = frozenset(TcbStatus) - RELAUNCH_STATUSES
_LABELLED: Final = tuple(f"{kind}[{index}]" for kind in ("sgx", "tdx") for index in range(COMPONENTS))
_HEX: Final = {size: hex_of(size) for size in (2, 4, 6, 8, 16, 32, 48)}
_ISV_STATUSES: Final = frozenset({TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE, TcbStatus.REVOKED})
assert OUT_OF_DATE_STATUSES < _PLATFORM_STATUSES


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbLevel:
    """A platform level: the least SVNs that have this status.

    Attributes:
        sgx_components, tdx_components: 16 SVNs each.
    """

    sgx_components: tuple[int, ...]
    pce_svn: int
    tdx_components: tuple[int, ...]
    status: TcbStatus
    tcb_date: datetime
    advisory_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IsvLevel:
    """A level of a TDX module or a quoting enclave."""

    isv_svn: int
    status: TcbStatus
    tcb_date: datetime
    advisory_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxModule:
    """The required signer of a TDX module. ``levels`` is empty for the unversioned entry."""

    id: str
    mr_signer: bytes
    attributes: bytes
    attributes_mask: bytes
    levels: tuple[IsvLevel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbInfo:
    """TCB info of one FMSPC. Levels are sorted, highest first: the document's order is not trusted.

    Attributes:
        labels: for people: Intel's name for an SVN component, by ``sgx[0]`` … ``tdx[15]``; most have none.
    """

    issue_date: datetime
    next_update: datetime
    fmspc: bytes
    pce_id: bytes
    tcb_evaluation_data_number: int
    tdx_module: TdxModule
    tdx_module_identities: tuple[TdxModule, ...]
    tcb_levels: tuple[TcbLevel, ...]
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class QeIdentity:
    """What the TD quoting enclave must be. Levels are sorted, highest first."""

    issue_date: datetime
    next_update: datetime
    tcb_evaluation_data_number: int
    misc_select: int
    misc_select_mask: int
    attributes: bytes
    attributes_mask: bytes
    mr_signer: bytes
    isv_prod_id: int
    tcb_levels: tuple[IsvLevel, ...]


def parse_tcb_info_untrusted(data: bytes) -> TcbInfo:
    """Parse a TDX TCB info document of version 3.

    Raises:
        MalformedError: ``tcb-info-malformed``, ``tcb-info-version``, ``tcb-info-not-tdx``, ``tcb-info-type``.
    """
    top = read_map(parse_json_untrusted(data, code="tcb-info"), code="tcb-info")
    _require_version(top, 3, "tcb-info")
    if top.take("id", TEXT) != "TDX":
        raise MalformedError(
            "tcb-info-not-tdx",
            f"the TCB info is for {top.take('id', TEXT)!r}, a TD quote needs one for 'TDX'",
            values={"expected": "TDX", "actual": top.take("id", TEXT)},
        )
    if top.take("tcbType", UINT16) != 0:
        raise MalformedError("tcb-info-type", "the TCB info's tcbType is not 0")
    items = top.each_below("tcbLevels", ARRAY)
    levels = tuple(map(_platform_level, items))
    keys = {(level.sgx_components, level.pce_svn, level.tdx_components) for level in levels}
    if not levels or len(keys) != len(levels):
        top.refuse("tcbLevels", "is empty, or two of its levels have the same SVNs")
    modules = (
        tuple(
            _module(item, item.take("id", TEXT).upper(), _isv_levels(item))
            for item in top.each_below("tdxModuleIdentities", ARRAY)
        )
        if "tdxModuleIdentities" in top
        else ()
    )
    if len({module.id for module in modules}) != len(modules):
        top.refuse("tdxModuleIdentities", "names one module twice")
    issue_date, next_update = _window(top)
    return TcbInfo(
        issue_date=issue_date,
        next_update=next_update,
        fmspc=top.take("fmspc", _HEX[6]),
        pce_id=top.take("pceId", _HEX[2]),
        tcb_evaluation_data_number=top.take("tcbEvaluationDataNumber", UINT32),
        tdx_module=_module(top.below("tdxModule"), "TDX", ()),
        tdx_module_identities=modules,
        tcb_levels=tuple(
            sorted(
                levels,
                key=lambda level: (level.sgx_components, level.pce_svn, level.tdx_components),
                reverse=True,
            )
        ),
        labels=_labels(items[0]),
    )


def parse_qe_identity_untrusted(data: bytes) -> QeIdentity:
    """Parse a TD QE identity document of version 2.

    Raises:
        MalformedError: ``qe-identity-malformed``, ``qe-identity-version`` or ``qe-identity-not-td-qe``.
    """
    top = read_map(parse_json_untrusted(data, code="qe-identity"), code="qe-identity")
    if top.take("id", TEXT) != "TD_QE":
        raise MalformedError(
            "qe-identity-not-td-qe",
            f"the QE identity is for {top.take('id', TEXT)!r}, a TD quote needs one for 'TD_QE'",
            values={"expected": "TD_QE", "actual": top.take("id", TEXT)},
        )
    _require_version(top, 2, "qe-identity")
    issue_date, next_update = _window(top)
    return QeIdentity(
        issue_date=issue_date,
        next_update=next_update,
        tcb_evaluation_data_number=top.take("tcbEvaluationDataNumber", UINT32),
        # Hex in memory order: the little-endian reading of the report's own field.
        misc_select=int.from_bytes(top.take("miscselect", _HEX[4]), "little"),
        misc_select_mask=int.from_bytes(top.take("miscselectMask", _HEX[4]), "little"),
        attributes=top.take("attributes", _HEX[16]),
        attributes_mask=top.take("attributesMask", _HEX[16]),
        mr_signer=top.take("mrsigner", _HEX[32]),
        isv_prod_id=top.take("isvprodid", UINT16),
        tcb_levels=_isv_levels(top),
    )


def _require_version(top: StrictMap, version: int, code: str) -> None:
    found = top.take("version", UINT16)
    if found != version:
        raise MalformedError(
            f"{code}-version",
            f"the {code} has version {found}, only {version} is supported",
            values={"expected": version, "actual": found},
        )


def _window(top: StrictMap) -> tuple[datetime, datetime]:
    issue_date, next_update = top.take("issueDate", time), top.take("nextUpdate", time)
    if next_update < issue_date:
        top.refuse("nextUpdate", "is before issueDate")
    return issue_date, next_update


def _status(level: StrictMap, allowed: frozenset[TcbStatus]) -> TcbStatus:
    text = level.take("tcbStatus", TEXT)
    # An unknown status fails closed: its meaning could be anything.
    if text not in allowed:
        level.refuse("tcbStatus", f"is {text!r}, which is not a status of such a level")
    return TcbStatus(text)


def _components(tcb: StrictMap, name: str) -> tuple[int, ...]:
    items = tcb.take(name, ARRAY)
    if len(items) != COMPONENTS:
        tcb.refuse(name, f"has {len(items)} components, expected {COMPONENTS}")
    svns: list[Any] = [item.get("svn") if isinstance(item, dict) else None for item in items]
    # By exact type: bool is an int in Python.
    if set(map(type, svns)) != {int} or min(svns) < 0 or max(svns) > SVN_MAX:
        tcb.refuse(name, f"has a component whose svn is not an integer in 0..{SVN_MAX}")
    return tuple(svns)


def _labels(level: StrictMap) -> dict[str, str]:
    """Return the names of a level's components; Intel uses the same names in all levels of a document."""
    tcb = level.below("tcb")
    items = [*tcb.take("sgxtcbcomponents", ARRAY), *tcb.take("tdxtcbcomponents", ARRAY)]
    return {
        place: _label(item)
        for place, item in zip(_LABELLED, items, strict=True)
        if "category" in item or "type" in item
    }


def _label(item: dict[str, Any]) -> str:
    parts = (item.get("category"), item.get("type"))
    return " ".join(part for part in parts if isinstance(part, str))[:LABEL_LENGTH_MAX]


def _platform_level(level: StrictMap) -> TcbLevel:
    tcb = level.below("tcb")
    return TcbLevel(
        sgx_components=_components(tcb, "sgxtcbcomponents"),
        pce_svn=tcb.take("pcesvn", UINT16),
        tdx_components=_components(tcb, "tdxtcbcomponents"),
        status=_status(level, _PLATFORM_STATUSES),
        tcb_date=level.take("tcbDate", time),
        advisory_ids=advisory_ids(level),
    )


def _isv_levels(parent: StrictMap) -> tuple[IsvLevel, ...]:
    levels = [
        IsvLevel(
            isv_svn=level.below("tcb").take("isvsvn", UINT16),
            status=_status(level, _ISV_STATUSES),
            tcb_date=level.take("tcbDate", time),
            advisory_ids=advisory_ids(level),
        )
        for level in parent.each_below("tcbLevels", ARRAY)
    ]
    if not levels or len({level.isv_svn for level in levels}) != len(levels):
        parent.refuse("tcbLevels", "is empty, or two of its levels have the same isvsvn")
    return tuple(sorted(levels, key=lambda level: level.isv_svn, reverse=True))


def _module(item: StrictMap, module_id: str, levels: tuple[IsvLevel, ...]) -> TdxModule:
    return TdxModule(
        id=module_id,
        mr_signer=item.take("mrsigner", _HEX[48]),
        attributes=item.take("attributes", _HEX[8]),
        attributes_mask=item.take("attributesMask", _HEX[8]),
        levels=levels,
    )
