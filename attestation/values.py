"""Values that every part of the verifier uses: statuses, times, attribute bits."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

DURATION_MAX: Final = timedelta(days=100 * 366)
"""No rule has a longer duration. Its sum with a time that is not far in the future does not overflow."""


TIME_MAX: Final = datetime(9800, 1, 1, tzinfo=UTC)
"""A later time of a clock is read as this one, so that a sum with it (``DURATION_MAX`` at most) is a time."""


class TcbStatus(StrEnum):
    """A TCB status, in Intel's spelling. The last two exist only after the relaunch rule."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"


RELAUNCH_STATUSES: Final = frozenset(
    {TcbStatus.TD_RELAUNCH_ADVISED, TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED}
)
"""No signed level may have these statuses: they come only from comparing launch and current."""

OUT_OF_DATE_STATUSES: Final = frozenset({TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED})

# TDATTRIBUTES (A9; TDX Module ABI). Bits that are not named are reserved.
TD_ATTRIBUTE_BITS: Final[dict[str, int]] = {
    "DEBUG": 0,
    "HGS_PLUS_PROF": 4,
    "PERF_PROF": 5,
    "PMT_PROF": 6,
    "ICSSD": 16,
    "SERVTD_EXT": 17,
    "SEC_18": 18,
    "SEC_19": 19,
    "SEC_20": 20,
    "SEC_21": 21,
    "SEC_22": 22,
    "LASS": 27,
    "SEPT_VE_DISABLE": 28,
    "MIGRATABLE": 29,
    "PKS": 30,
    "KL": 31,
    "TPA": 62,
    "PERFMON": 63,
}


def td_attribute_names(attributes: int) -> tuple[str, ...]:
    """Return the names of the set bits, ascending; a reserved bit is named ``RESERVED_<bit>``."""
    by_bit = {bit: name for name, bit in TD_ATTRIBUTE_BITS.items()}
    return tuple(
        by_bit.get(bit, f"RESERVED_{bit}") for bit in range(attributes.bit_length()) if attributes >> bit & 1
    )


def mask_of(names: frozenset[str]) -> int:
    """Return the bits of these TD attributes as an integer."""
    return sum(1 << TD_ATTRIBUTE_BITS[name] for name in names)


def whole_seconds(now: datetime) -> datetime:
    """Return ``now`` in UTC without fractions of a second: every window of DCAP is in whole seconds.

    A naive time is our own bug, so it is an assertion.
    """
    assert now.tzinfo is not None, "a time without a zone"
    return now.astimezone(UTC).replace(microsecond=0)


def timestamp(at: datetime) -> str:
    """Return ``YYYY-MM-DDTHH:MM:SSZ``, the one spelling that Intel's documents use."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def u64_hex(value: int) -> str:
    """Return the eight bytes of a TDX attribute field in memory order (little-endian), as hex."""
    return value.to_bytes(8, "little").hex()
