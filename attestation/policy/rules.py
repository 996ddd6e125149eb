"""The appraisal policy as a frozen value. The policy is data; ``attestation.policy.appraise`` applies it.

Its parts: the TCB, the TD, reference values, how old a ticket's quote may be, event logs.

A rule that is absent from a policy file has its strictest meaning. Some rules must be present, or waived by
name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

from attestation.encoding.canonical import digest, encode
from attestation.values import TD_ATTRIBUTE_BITS, TcbStatus, mask_of
from attestation.x509.trust import TrustRoot

REGISTERS: Final = (
    "mrtd",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "rtmr3",
    "mrseam",
    "mrconfigid",
    "mrowner",
    "mrownerconfig",
)
"""The measurements that a policy pins or waives by name."""

# A9. A bit that is neither here nor allowed by a policy is refused; a reserved bit is always refused.
DEFAULT_ALLOWED_ATTRIBUTES: Final = frozenset(TD_ATTRIBUTE_BITS) - {
    "DEBUG",
    "HGS_PLUS_PROF",
    "PERF_PROF",
    "PMT_PROF",
    "SERVTD_EXT",
    "MIGRATABLE",
}
DEFAULT_REQUIRED_ATTRIBUTES: Final = frozenset({"SEPT_VE_DISABLE"})
XFAM_REQUIRED: Final = 0x3
"""x87 and SSE, fixed to one by the TDX module."""
XFAM_ALLOWED: Final = 0x6DBE7

ZERO_MEASUREMENT: Final = bytes(48)

Values = Mapping[str, frozenset[bytes]]
"""Accepted 48-byte values by register name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbRules:
    """Which TCB is good enough.

    Attributes:
        accepted_statuses: never contains Revoked.
        accepted_advisories: ids that a platform may be affected by; None accepts any (``"any"`` in a file).
        refused_advisories: ids that are refused even if ``accepted_advisories`` has them.
        grace_period: how long an outdated part is still accepted, from when a set with a better level was
            first enforced (``attestation.collateral.enforcement``); zero: no grace.
        minimum_tee_tcb_svn: 16 bytes, compared one by one, for launch and current; zeros: no minimum.
        max_collateral_age: of TCB info, QE identity and PCK CRL; None: only their own windows count.
        standing_days: how long a member that was accepted keeps its bonds after its TCB alone fell back.
    """

    accepted_statuses: frozenset[TcbStatus]
    accepted_advisories: frozenset[str] | None
    refused_advisories: frozenset[str]
    grace_period: timedelta
    minimum_evaluation_data_number: int
    minimum_tee_tcb_svn: bytes
    max_collateral_age: timedelta | None
    standing_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TdRules:
    """Which TDs are accepted. Masks over TDATTRIBUTES and XFAM, as 64-bit integers.

    Attributes:
        mr_service_td: accepted 48-byte values of MR_SERVICETD; zeros mean: no service TD is bound.
    """

    allowed_attributes: int
    required_attributes: int
    xfam_required: int
    xfam_allowed: int
    mr_service_td: frozenset[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceValues:
    """Which software may run.

    Attributes:
        baseline: all of it must match.
        variants: by name; if there are any, one of them must match completely.
        not_checked: registers that the policy waives by name, sorted as in ``REGISTERS``.
        accept_any_td: the policy states explicitly that MRTD is not pinned.
        own_mrconfigid: MRCONFIGID must be the digest of the group document that the appraiser itself has
            loaded (``mrconfigid = "own"``).
    """

    baseline: Values
    variants: Mapping[str, Values]
    not_checked: tuple[str, ...]
    accept_any_td: bool
    own_mrconfigid: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketRules:
    """How old evidence in a ticket may be.

    Attributes:
        max_age: from when the quote was made to now.
        max_lifetime: from when the quote was made to the ticket's own expiry.
        not_before: quotes made earlier are refused; None: no such date.
    """

    max_age: timedelta
    max_lifetime: timedelta
    not_before: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLogRules:
    """Which registers the event log must explain.

    Attributes:
        registers: 0 to 3 for RTMR0 to RTMR3; empty: no event log is needed.
    """

    registers: frozenset[int]


@dataclass(frozen=True, kw_only=True)  # without slots: its canonical form is made once
class AppraisalPolicy:
    """Everything that decides whether genuine evidence is accepted."""

    tcb: TcbRules
    td: TdRules
    reference_values: ReferenceValues
    ticket: TicketRules
    event_log: EventLogRules

    def canonical(self) -> dict[str, Any]:
        """Return the policy as plain data: two policies have the same form exactly if they mean the same.

        It is built from the fields, so no rule can be forgotten. A rule with the meaning in ``ABSENT`` is not
        written: a later release can add rules, and older policies keep their bytes.
        """
        return _canonical_rules(self)

    @cached_property
    def _canonical(self) -> dict[str, Any]:
        return self.canonical()

    @property
    def signature(self) -> bytes:
        """32-byte digest of the policy's meaning."""
        return digest("bondstone/appraisal-policy/v2", self._canonical)

    def signature_with(self, root: TrustRoot) -> bytes:
        """32-byte digest of the policy's meaning under one trust root: mock and real never share it."""
        return digest("bondstone/tdx-appraisal/v2", root.spki_digest, root.mock, self._canonical)


STANDING_DAYS: Final = 14
STANDING_DAYS_MAX: Final = 90

ABSENT: Final[Mapping[type, Mapping[str, Any]]] = MappingProxyType(
    {
        TcbRules: {
            "accepted_advisories": frozenset(),
            "refused_advisories": frozenset(),
            "grace_period": timedelta(0),
            "minimum_evaluation_data_number": 0,
            "minimum_tee_tcb_svn": bytes(16),
            "max_collateral_age": None,
            "standing_days": STANDING_DAYS,
        },
        TdRules: {
            "allowed_attributes": mask_of(DEFAULT_ALLOWED_ATTRIBUTES),
            "required_attributes": mask_of(DEFAULT_REQUIRED_ATTRIBUTES),
            "xfam_required": XFAM_REQUIRED,
            "xfam_allowed": XFAM_ALLOWED,
            "mr_service_td": frozenset({ZERO_MEASUREMENT}),
        },
        ReferenceValues: {
            "baseline": {},
            "variants": {},
            "not_checked": (),
            "accept_any_td": False,
            "own_mrconfigid": False,
        },
        TicketRules: {"not_before": None},
        EventLogRules: {"registers": frozenset()},
        AppraisalPolicy: {},
    }
)
"""The meaning of a rule that a policy omits. It never changes. A rule that is not here is always written."""


def _canonical_rules(rules: Any) -> dict[str, Any]:
    absent = ABSENT[type(rules)]
    out: dict[str, Any] = {}
    for item in fields(rules):
        value = getattr(rules, item.name)
        if item.name in absent and value == absent[item.name]:
            continue
        plain = _plain(value)
        if plain != {} or not is_dataclass(value):
            out[item.name] = plain
    return out


def _plain(value: Any) -> Any:
    """Return a rule's value as plain data: durations and times in whole seconds, sets sorted."""
    if is_dataclass(value):
        return _canonical_rules(value)
    match value:
        case timedelta():
            return int(value.total_seconds())
        case datetime():
            return int(value.timestamp())
        case Enum():
            return str(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case frozenset() | tuple():
            return sorted((_plain(item) for item in value), key=encode)
        case None | bool() | int() | str() | bytes():
            return value
        case _:
            raise TypeError(f"a policy rule of type {type(value).__name__} has no canonical form")


def default_policy() -> AppraisalPolicy:
    """Return the policy of ``quote verify`` without a policy file.

    Genuineness, TCB status UpToDate, and the default TD rules of A9. It accepts *any* TD: what
    it does not check is listed in every result.
    """
    return AppraisalPolicy(
        tcb=TcbRules(
            accepted_statuses=frozenset({TcbStatus.UP_TO_DATE}),
            accepted_advisories=None,
            refused_advisories=frozenset(),
            grace_period=timedelta(0),
            minimum_evaluation_data_number=0,
            minimum_tee_tcb_svn=bytes(16),
            max_collateral_age=None,
            standing_days=STANDING_DAYS,
        ),
        td=default_td_rules(),
        reference_values=ReferenceValues(
            baseline={}, variants={}, not_checked=REGISTERS, accept_any_td=True, own_mrconfigid=False
        ),
        ticket=TicketRules(max_age=timedelta(hours=1), max_lifetime=timedelta(hours=1), not_before=None),
        event_log=EventLogRules(registers=frozenset()),
    )


def default_td_rules() -> TdRules:
    """Return the default TD rules of A9."""
    return TdRules(**ABSENT[TdRules])
