"""What can be wrong with an image, a firmware, or the configuration of a guest.

ImageError(reason)
├─ MalformedImageError         is it bytes that we understand?
├─ UnsupportedFirmwareError    do we know the rules by which this firmware measures?
├─ MeasurementMismatchError    did it boot what was predicted?
└─ GuestConfigError            may this guest start with what its host gave it?
"""

from enclave.errors import EnclaveError


class ImageError(EnclaveError):
    """The base.

    Args:
        reason: stable kebab-case code, for machines.
        message: one sentence, for people.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} [{self.reason}]"


class MalformedImageError(ImageError):
    """These bytes are not the firmware, executable, disk or table that they claim to be."""


class UnsupportedFirmwareError(ImageError):
    """This firmware cannot start a TD, or it is of a generation whose rules we do not know."""


class MeasurementMismatchError(ImageError):
    """What was measured is not what was predicted."""


class GuestConfigError(ImageError):
    """The configuration from the host is too large, malformed, or not the one that was measured."""
