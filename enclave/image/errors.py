"""The errors of an image, a firmware, or the configuration of a guest.

ImageError(reason)
├─ MalformedImageError         do we understand the bytes?
├─ UnsupportedFirmwareError    do we know the rules by which this firmware measures?
├─ MeasurementMismatchError    did the guest boot as predicted?
└─ GuestConfigError            may this guest start with the host's configuration?
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
    """This firmware cannot start a TD, or we do not know the rules of its generation."""


class MeasurementMismatchError(ImageError):
    """The measurement differs from the prediction."""


class GuestConfigError(ImageError):
    """The configuration from the host is too large, malformed, or differs from the measured one."""
