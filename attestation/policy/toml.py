"""Reading an appraisal policy from TOML. An unknown key is refused by name; no key is ignored."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, NoReturn

import msgspec

from attestation.encoding.toml_tables import (
    StrictTable,
    TableError,
    parse_toml_untrusted,
    read_table_untrusted,
)
from attestation.errors import MalformedError
from attestation.policy.rules import (
    ABSENT,
    DEFAULT_ALLOWED_ATTRIBUTES,
    DEFAULT_REQUIRED_ATTRIBUTES,
    REGISTERS,
    STANDING_DAYS_MAX,
    AppraisalPolicy,
    EventLogRules,
    ReferenceValues,
    TcbRules,
    TdRules,
    TicketRules,
    Values,
    default_policy,
)
from attestation.values import DURATION_MAX, TD_ATTRIBUTE_BITS, TcbStatus, mask_of

POLICY_BYTES_MAX: Final = 1024 * 1024
OWN: Final = "own"
"""``mrconfigid = "own"``: the digest of the group document that the appraiser itself has loaded."""
_TCB_ABSENT: Final = ABSENT[TcbRules]
_TD_ABSENT: Final = ABSENT[TdRules]
_DAY: Final = timedelta(days=1)
_SECOND: Final = timedelta(seconds=1)
_UINT64_MAX: Final = 2**64 - 1

Texts = str | tuple[str, ...]  # one text means a list of one
Days = Annotated[int, msgspec.Meta(ge=0, le=DURATION_MAX // _DAY)]
Seconds = Annotated[int, msgspec.Meta(ge=1, le=DURATION_MAX // _SECOND)]


# ---- the file, as it is written -------------------------------------------------------------------------


class TcbTable(StrictTable, frozen=True):
    """``[tcb]``."""

    accepted_statuses: Texts = ()
    accepted_advisories: Texts = ()
    refused_advisories: Texts = ()
    grace_period_days: Days | None = None
    minimum_evaluation_data_number: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)] = _TCB_ABSENT[
        "minimum_evaluation_data_number"
    ]
    minimum_tee_tcb_svn: Texts = ()
    max_collateral_age_days: Days | None = None
    standing_days: Annotated[int, msgspec.Meta(ge=0, le=STANDING_DAYS_MAX)] = _TCB_ABSENT["standing_days"]


class TdTable(StrictTable, frozen=True):
    """``[td]``."""

    allowed_attributes: Texts = ()
    refused_attributes: Texts = ()
    required_attributes: Texts | None = None
    xfam_required: int = _TD_ABSENT["xfam_required"]
    xfam_allowed: int = _TD_ABSENT["xfam_allowed"]
    mr_service_td: Texts = ()


class TicketTable(StrictTable, frozen=True):
    """``[ticket]``."""

    max_age_seconds: Seconds
    max_lifetime_seconds: Seconds
    not_before: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class RegistersTable(StrictTable, frozen=True):
    """``[reference_values.baseline]`` or one of its variants: accepted values by register."""

    mrtd: Texts | None = None
    rtmr0: Texts | None = None
    rtmr1: Texts | None = None
    rtmr2: Texts | None = None
    rtmr3: Texts | None = None
    mrseam: Texts | None = None
    mrconfigid: Texts | None = None
    mrowner: Texts | None = None
    mrownerconfig: Texts | None = None


assert RegistersTable.__struct_fields__ == REGISTERS


class ReferenceTable(StrictTable, frozen=True):
    """``[reference_values]``. Each variant is read by itself, so that errors have its name."""

    accept_any_td: bool = False
    not_checked: Texts = ()
    baseline: RegistersTable = RegistersTable()
    variants: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


class EventLogTable(StrictTable, frozen=True):
    """``[event_log]``."""

    explained_registers: Texts = ()


class PolicyTable(StrictTable, frozen=True):
    """A policy as a table of another document, which has a version of its own."""

    tcb: TcbTable
    reference_values: ReferenceTable
    ticket: TicketTable | None = None
    td: TdTable = TdTable()
    event_log: EventLogTable = EventLogTable()


class PolicyFile(PolicyTable, frozen=True, kw_only=True):
    """A whole policy file."""

    version: int


def load_policy_untrusted(data: bytes, *, tickets: bool = True) -> AppraisalPolicy:
    """Read a policy file (docs/attestation.md describes every key).

    Args:
        data: TOML.
        tickets: the policy is for tickets, so ``[ticket]`` must limit their age. A bare quote has no age.

    Raises:
        MalformedError: ``policy-malformed``, with the key's name; ``policy-accepts-any-td``;
            ``policy-register-unaddressed``.
    """
    try:
        file = read_table_untrusted(parse_toml_untrusted(data, bytes_max=POLICY_BYTES_MAX), PolicyFile)
        if file.version != 1:
            raise TableError("version", "must be 1")
        return _policy(file, "", tickets=tickets)
    except TableError as exc:
        raise _malformed(exc) from exc


def policy_from_table_untrusted(value: Any, *, path: str) -> AppraisalPolicy:
    """Read a policy from a table of another TOML document, which has a version of its own.

    Raises:
        MalformedError: as from :func:`load_policy_untrusted`; keys are named below ``path``.
    """
    try:
        return _policy(read_table_untrusted(value, PolicyTable, path=path), f"{path}.", tickets=True)
    except TableError as exc:
        raise _malformed(exc) from exc


def _malformed(exc: TableError) -> MalformedError:
    values = {"key": exc.key} if exc.key else {}
    return MalformedError("policy-malformed", f"the policy: {exc}", values=values)


def _policy(table: PolicyTable, at: str, *, tickets: bool) -> AppraisalPolicy:
    """Return the rules of a checked table. ``at`` is what precedes its keys in errors: "" or ``policy.``."""
    if tickets and table.ticket is None:
        raise TableError(f"{at}ticket", "is missing: tickets need a limit to their age")
    return AppraisalPolicy(
        tcb=_tcb_rules(table.tcb, f"{at}tcb."),
        td=_td_rules(table.td, f"{at}td."),
        reference_values=_reference_values(table.reference_values, f"{at}reference_values."),
        ticket=default_policy().ticket
        if table.ticket is None
        else _ticket_rules(table.ticket, f"{at}ticket."),
        event_log=_event_log_rules(table.event_log, f"{at}event_log."),
    )


# ---- values ---------------------------------------------------------------------------------------------


def _list(texts: Texts) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else texts


def _hex_values(texts: Texts, size: int, key: str) -> frozenset[bytes]:
    out = set()
    for text in _list(texts):
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) != size:
            raise TableError(key, f"must hold {2 * size} hex digits per value")
        out.add(value)
    return frozenset(out)


def _require_known(names: tuple[str, ...], known: tuple[str, ...], key: str) -> None:
    for name in names:
        if name not in known:
            raise TableError(key, f"names {name!r}; known are {', '.join(known)}")


# ---- rules ----------------------------------------------------------------------------------------------


def _tcb_rules(table: TcbTable, at: str) -> TcbRules:
    names = _list(table.accepted_statuses)
    known = {str(status) for status in TcbStatus} - {str(TcbStatus.REVOKED)}
    if not names:
        raise TableError(f"{at}accepted_statuses", 'must name at least one status, such as "UpToDate"')
    for name in names:
        if name not in known:
            raise TableError(f"{at}accepted_statuses", f"names {name!r}, which cannot be accepted")
    advisories = _list(table.accepted_advisories)
    svn = _hex_values(table.minimum_tee_tcb_svn, 16, f"{at}minimum_tee_tcb_svn")
    if len(svn) > 1:
        raise TableError(f"{at}minimum_tee_tcb_svn", "must be one value")
    grace, age = table.grace_period_days, table.max_collateral_age_days
    return TcbRules(
        accepted_statuses=frozenset(TcbStatus(name) for name in names),
        accepted_advisories=None if advisories == ("any",) else frozenset(advisories),
        refused_advisories=frozenset(_list(table.refused_advisories)),
        grace_period=_TCB_ABSENT["grace_period"] if grace is None else grace * _DAY,
        minimum_evaluation_data_number=table.minimum_evaluation_data_number,
        minimum_tee_tcb_svn=next(iter(svn), _TCB_ABSENT["minimum_tee_tcb_svn"]),
        max_collateral_age=_TCB_ABSENT["max_collateral_age"] if age is None else age * _DAY,
        standing_days=table.standing_days,
    )


def _td_rules(table: TdTable, at: str) -> TdRules:
    def attributes(key: str, texts: Texts) -> frozenset[str]:
        names = _list(texts)
        _require_known(names, tuple(TD_ATTRIBUTE_BITS), f"{at}{key}")
        return frozenset(names)

    allowed = attributes("allowed_attributes", table.allowed_attributes)
    refused = attributes("refused_attributes", table.refused_attributes)
    required = (
        DEFAULT_REQUIRED_ATTRIBUTES
        if table.required_attributes is None
        else attributes("required_attributes", table.required_attributes)
    )
    if contradiction := sorted(refused & (allowed | required)):
        raise TableError(f"{at}refused_attributes", f"contradicts what it allows: {contradiction[0]}")
    for key, mask in (("xfam_required", table.xfam_required), ("xfam_allowed", table.xfam_allowed)):
        if not 0 <= mask <= _UINT64_MAX:
            raise TableError(f"{at}{key}", f"must be an integer in 0..{_UINT64_MAX}")
    if table.xfam_required & ~table.xfam_allowed:
        raise TableError(f"{at}xfam_required", "requires bits that xfam_allowed does not allow")
    return TdRules(
        allowed_attributes=mask_of((DEFAULT_ALLOWED_ATTRIBUTES | allowed | required) - refused),
        required_attributes=mask_of(required),
        xfam_required=table.xfam_required,
        xfam_allowed=table.xfam_allowed,
        mr_service_td=_hex_values(table.mr_service_td, 48, f"{at}mr_service_td")
        or _TD_ABSENT["mr_service_td"],
    )


def _values(table: RegistersTable, at: str, *apart: str) -> Values:
    out: dict[str, frozenset[bytes]] = {}
    for name in REGISTERS:
        texts: Texts | None = getattr(table, name)
        if texts is not None and name not in apart:
            out[name] = _hex_values(texts, 48, f"{at}{name}")
            if not out[name]:
                raise TableError(f"{at}{name}", "is an empty list: no TD could ever match")
    return out


def _reference_values(table: ReferenceTable, at: str) -> ReferenceValues:
    any_td = table.accept_any_td
    own = _list(table.baseline.mrconfigid or ()) == (OWN,)
    baseline = _values(table.baseline, f"{at}baseline.", *(("mrconfigid",) if own else ()))
    variants = {
        name: _values(
            read_table_untrusted(value, RegistersTable, path=f"{at}variants.{name}"), f"{at}variants.{name}."
        )
        for name, value in table.variants.items()
    }
    named = _list(table.not_checked)
    _require_known(named, REGISTERS, f"{at}not_checked")
    waived = set(named)
    for name in REGISTERS:
        by_all = name in baseline or (own and name == "mrconfigid")
        pinned = by_all or any(name in variant for variant in variants.values())
        everywhere = by_all or (bool(variants) and all(name in variant for variant in variants.values()))
        if name in waived and pinned:
            raise TableError(f"{at}not_checked", f"waives {name}, which the policy also pins")
        if not everywhere and name not in waived:
            if not any_td or pinned:
                _refuse_unaddressed(name)
            waived.add(name)
    if "mrtd" in waived and not any_td:
        raise MalformedError(
            "policy-accepts-any-td",
            "the policy does not pin mrtd, so it accepts any TD: pin it, or write accept_any_td = true",
        )
    if any_td and "mrtd" not in waived:
        raise TableError(f"{at}accept_any_td", "contradicts the pinned mrtd")
    return ReferenceValues(
        baseline=baseline,
        variants=variants,
        not_checked=tuple(name for name in REGISTERS if name in waived),
        accept_any_td=any_td,
        own_mrconfigid=own,
    )


def _refuse_unaddressed(name: str) -> NoReturn:
    raise MalformedError(
        "policy-register-unaddressed",
        f"the policy neither pins {name} (in the baseline or in every variant) nor names it in "
        "reference_values.not_checked",
        values={"register": name},
    )


def _ticket_rules(table: TicketTable, at: str) -> TicketRules:
    not_before = table.not_before
    if not_before is not None:
        try:
            not_before = not_before.astimezone(UTC).replace(microsecond=0)
        except OverflowError:
            raise TableError(f"{at}not_before", "is not a time that can be represented") from None
    return TicketRules(
        max_age=table.max_age_seconds * _SECOND,
        max_lifetime=table.max_lifetime_seconds * _SECOND,
        not_before=not_before,
    )


def _event_log_rules(table: EventLogTable, at: str) -> EventLogRules:
    names = _list(table.explained_registers)
    _require_known(names, ("rtmr0", "rtmr1", "rtmr2", "rtmr3"), f"{at}explained_registers")
    return EventLogRules(registers=frozenset(int(name[-1]) for name in names))
