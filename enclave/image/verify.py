"""Compares the log of a boot with its prediction."""

from collections.abc import Sequence
from dataclasses import dataclass

from attestation.eventlog.events import Event
from enclave.image.errors import MeasurementMismatchError
from enclave.image.rtmr import MeasuredEvent, replay


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first event at which a boot differs from its prediction. One of the two may be missing."""

    register: int
    index: int
    """Position among the register's events, from 0."""
    predicted: MeasuredEvent | None
    observed: Event | None

    def __str__(self) -> str:
        place = f"RTMR[{self.register}] event {self.index}"
        if self.predicted is None:
            assert self.observed is not None
            return (
                f"{place}: nothing more was predicted, but {self.observed.type_name} "
                f"{self.observed.digest.hex()} was measured"
            )
        if self.observed is None:
            return f"{place}: {self.predicted.label} was predicted, but the log ends before it"
        return (
            f"{place}, {self.predicted.label}: predicted {self.predicted.digest.hex()}, measured "
            f"{self.observed.digest.hex()} ({self.observed.type_name})"
        )


def first_difference(
    predicted: Sequence[MeasuredEvent], observed: Sequence[Event], *, registers: Sequence[int]
) -> Difference | None:
    """Return the first event that differs in any of ``registers``, or None if all their events agree."""
    for register in registers:
        expected = [item for item in predicted if item.register == register]
        found = [item for item in observed if item.register == register and item.extends]
        for index in range(max(len(expected), len(found))):
            wanted = expected[index] if index < len(expected) else None
            seen = found[index] if index < len(found) else None
            if wanted is None or seen is None or wanted.digest != seen.digest:
                return Difference(register=register, index=index, predicted=wanted, observed=seen)
    return None


def require_registers(
    predicted: Sequence[MeasuredEvent], quoted: Sequence[bytes], *, registers: Sequence[int]
) -> None:
    """Return only if a quote's registers are the predicted ones. A log alone proves nothing.

    Args:
        predicted: the boot's events.
        quoted: RTMR[0] to RTMR[3] of a verified quote.
        registers: which to compare.

    Raises:
        MeasurementMismatchError: names the first register that differs.
    """
    for register in registers:
        expected = replay(item for item in predicted if item.register == register)
        if quoted[register] != expected:
            raise MeasurementMismatchError(
                "register-differs",
                f"RTMR[{register}] is {quoted[register].hex()}, predicted was {expected.hex()}",
            )
