"""Reading an appraisal policy from TOML. An unknown key is refused by name; no key is ignored."""

import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

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


def load_policy_untrusted(data: bytes, *, tickets: bool = True) -> AppraisalPolicy:
    """Read a policy file (docs/attestation.md describes every key).

    Args:
        data: TOML.
        tickets: the policy is for tickets, so ``[ticket]`` must limit their age. A bare quote has no age.

    Raises:
        MalformedError: ``policy-malformed``, with the key's name; ``policy-accepts-any-td``;
            ``policy-register-unaddressed``.
    """
    if len(data) > POLICY_BYTES_MAX:
        raise MalformedError("policy-malformed", f"a policy of {len(data)} bytes, at most {POLICY_BYTES_MAX}")
    try:
        value = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise MalformedError("policy-malformed", f"the policy is not TOML: {exc}") from exc
    top = _Table(value, "")
    if top.integer("version", maximum=0xFFFF) != 1:
        top.refuse("version", "must be 1")
    return _policy_untrusted(top, tickets=tickets)


def policy_from_table_untrusted(value: Any, *, path: str) -> AppraisalPolicy:
    """Read a policy from a table of another TOML document, which has a version of its own.

    Raises:
        MalformedError: as from :func:`load_policy_untrusted`; keys are named below ``path``.
    """
    return _policy_untrusted(_Table(value, path), tickets=True)


def _policy_untrusted(top: "_Table", *, tickets: bool) -> AppraisalPolicy:
    has_ticket_rules = tickets or top.has("ticket")
    policy = AppraisalPolicy(
        tcb=_tcb_rules(top.table("tcb")),
        td=_td_rules(top.table("td", optional=True)),
        reference_values=_reference_values(top.table("reference_values")),
        ticket=_ticket_rules(top.table("ticket")) if has_ticket_rules else default_policy().ticket,
        event_log=_event_log_rules(top.table("event_log", optional=True)),
    )
    top.require_all_read()
    return policy


class _Table:
    """A TOML table that records which of its keys were read."""

    def __init__(self, value: Any, path: str) -> None:
        self._path = path
        self._read: set[str] = set()
        if not isinstance(value, Mapping):
            raise MalformedError("policy-malformed", f"the policy's {path} must be a table")
        self._value = value

    def refuse(self, key: str, text: str) -> NoReturn:
        path = f"{self._path}.{key}" if self._path else key
        raise MalformedError("policy-malformed", f"the policy's key {path} {text}", values={"key": path})

    def require_all_read(self) -> None:
        for key in self._value:
            if key not in self._read:
                self.refuse(key, "is not known")

    def names(self) -> tuple[str, ...]:
        return tuple(self._value)

    def has(self, key: str) -> bool:
        return key in self._value

    def get(self, key: str) -> Any:
        self._read.add(key)
        if key not in self._value:
            self.refuse(key, "is missing")
        return self._value[key]

    def table(self, key: str, *, optional: bool = False) -> "_Table":
        path = f"{self._path}.{key}" if self._path else key
        if optional and not self.has(key):
            return _Table({}, path)
        return _Table(self.get(key), path)

    def integer(self, key: str, *, maximum: int, default: int | None = None) -> int:
        if default is not None and not self.has(key):
            return default
        value = self.get(key)
        if type(value) is not int or not 0 <= value <= maximum:
            self.refuse(key, f"must be an integer in 0..{maximum}")
        return value

    def flag(self, key: str) -> bool:
        if not self.has(key):
            return False
        value = self.get(key)
        if not isinstance(value, bool):
            self.refuse(key, "must be true or false")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts, or one text as a list; absent means empty."""
        if not self.has(key):
            return ()
        value = self.get(key)
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            self.refuse(key, "must be a list of texts")
        return tuple(items)

    def hex_values(self, key: str, size: int) -> frozenset[bytes]:
        out = set()
        for text in self.texts(key):
            try:
                value = bytes.fromhex(text)
            except ValueError:
                value = b""
            if len(value) != size:
                self.refuse(key, f"must hold {2 * size} hex digits per value")
            out.add(value)
        return frozenset(out)

    def duration(self, key: str, unit: timedelta) -> timedelta:
        return unit * self.integer(key, maximum=DURATION_MAX // unit)


def _tcb_rules(table: _Table) -> TcbRules:
    names = table.texts("accepted_statuses")
    known = {str(status) for status in TcbStatus} - {str(TcbStatus.REVOKED)}
    if not names:
        table.refuse("accepted_statuses", 'must name at least one status, such as "UpToDate"')
    for name in names:
        if name not in known:
            table.refuse("accepted_statuses", f"names {name!r}, which cannot be accepted")
    any_advisory = table.texts("accepted_advisories") == ("any",)
    svn = table.hex_values("minimum_tee_tcb_svn", 16)
    if len(svn) > 1:
        table.refuse("minimum_tee_tcb_svn", "must be one value")
    rules = TcbRules(
        accepted_statuses=frozenset(TcbStatus(name) for name in names),
        accepted_advisories=None if any_advisory else frozenset(table.texts("accepted_advisories")),
        refused_advisories=frozenset(table.texts("refused_advisories")),
        grace_period=table.duration("grace_period_days", timedelta(days=1))
        if table.has("grace_period_days")
        else _TCB_ABSENT["grace_period"],
        minimum_evaluation_data_number=table.integer(
            "minimum_evaluation_data_number",
            maximum=0xFFFFFFFF,
            default=_TCB_ABSENT["minimum_evaluation_data_number"],
        ),
        minimum_tee_tcb_svn=next(iter(svn), _TCB_ABSENT["minimum_tee_tcb_svn"]),
        max_collateral_age=table.duration("max_collateral_age_days", timedelta(days=1))
        if table.has("max_collateral_age_days")
        else _TCB_ABSENT["max_collateral_age"],
        standing_days=table.integer(
            "standing_days", maximum=STANDING_DAYS_MAX, default=_TCB_ABSENT["standing_days"]
        ),
    )
    table.require_all_read()
    return rules


def _attributes(table: _Table, key: str) -> frozenset[str]:
    names = frozenset(table.texts(key))
    for name in sorted(names - TD_ATTRIBUTE_BITS.keys()):
        table.refuse(key, f"names {name!r}; known are {', '.join(TD_ATTRIBUTE_BITS)}")
    return names


def _td_rules(table: _Table) -> TdRules:
    allowed, refused = _attributes(table, "allowed_attributes"), _attributes(table, "refused_attributes")
    required = (
        _attributes(table, "required_attributes")
        if table.has("required_attributes")
        else DEFAULT_REQUIRED_ATTRIBUTES
    )
    if contradiction := sorted(refused & (allowed | required)):
        table.refuse("refused_attributes", f"contradicts what it allows: {contradiction[0]}")
    rules = TdRules(
        allowed_attributes=mask_of((DEFAULT_ALLOWED_ATTRIBUTES | allowed | required) - refused),
        required_attributes=mask_of(required),
        xfam_required=table.integer("xfam_required", maximum=2**64 - 1, default=_TD_ABSENT["xfam_required"]),
        xfam_allowed=table.integer("xfam_allowed", maximum=2**64 - 1, default=_TD_ABSENT["xfam_allowed"]),
        mr_service_td=table.hex_values("mr_service_td", 48) or _TD_ABSENT["mr_service_td"],
    )
    if rules.xfam_required & ~rules.xfam_allowed:
        table.refuse("xfam_required", "requires bits that xfam_allowed does not allow")
    table.require_all_read()
    return rules


def _values(table: _Table, *apart: str) -> Values:
    out: dict[str, frozenset[bytes]] = {}
    for name in REGISTERS:
        if table.has(name) and name not in apart:
            out[name] = table.hex_values(name, 48)
            if not out[name]:
                table.refuse(name, "is an empty list: no TD could ever match")
    table.require_all_read()
    return out


def _reference_values(table: _Table) -> ReferenceValues:
    any_td = table.flag("accept_any_td")
    baseline_table = table.table("baseline", optional=True)
    own = baseline_table.texts("mrconfigid") == (OWN,)
    baseline = _values(baseline_table, *(("mrconfigid",) if own else ()))
    variants_table = table.table("variants", optional=True)
    variants = {name: _values(variants_table.table(name)) for name in variants_table.names()}
    waived = set(table.texts("not_checked"))
    for name in sorted(waived - set(REGISTERS)):
        table.refuse("not_checked", f"names {name!r}; known are {', '.join(REGISTERS)}")
    table.require_all_read()
    for name in REGISTERS:
        by_all = name in baseline or (own and name == "mrconfigid")
        pinned = by_all or any(name in variant for variant in variants.values())
        everywhere = by_all or (bool(variants) and all(name in variant for variant in variants.values()))
        if name in waived and pinned:
            table.refuse("not_checked", f"waives {name}, which the policy also pins")
        if not everywhere and name not in waived:
            if not any_td or pinned:
                _refuse_unaddressed(name)
            waived.add(name)
    if "mrtd" in waived and not any_td:
        raise MalformedError(
            "policy-accepts-any-td",
            "the policy does not pin mrtd, so it accepts any TD: pin it, or say accept_any_td = true",
        )
    if any_td and "mrtd" not in waived:
        table.refuse("accept_any_td", "contradicts the pinned mrtd")
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


def _ticket_rules(table: _Table) -> TicketRules:
    not_before: datetime | None = None
    if table.has("not_before"):
        not_before = table.get("not_before")
        if not isinstance(not_before, datetime) or not_before.tzinfo is None:
            table.refuse("not_before", "must be a date and time with its offset, such as …T00:00:00Z")
        try:
            not_before = not_before.astimezone(UTC).replace(microsecond=0)
        except OverflowError:
            table.refuse("not_before", "is beyond all calendars")
    rules = TicketRules(
        max_age=table.duration("max_age_seconds", timedelta(seconds=1)),
        max_lifetime=table.duration("max_lifetime_seconds", timedelta(seconds=1)),
        not_before=not_before,
    )
    if not rules.max_age or not rules.max_lifetime:
        table.refuse("max_age_seconds", "and max_lifetime_seconds must be more than zero")
    table.require_all_read()
    return rules


def _event_log_rules(table: _Table) -> EventLogRules:
    names = table.texts("explained_registers")
    for name in names:
        if name not in {"rtmr0", "rtmr1", "rtmr2", "rtmr3"}:
            table.refuse("explained_registers", f"names {name!r}; known are rtmr0 to rtmr3")
    table.require_all_read()
    return EventLogRules(registers=frozenset(int(name[-1]) for name in names))
