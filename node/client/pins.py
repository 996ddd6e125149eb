"""Verified facts to keep: for each group its cluster, and the number of its newest birth certificate.

An attacker can show an older cluster that really existed to a new client, but not to a client with pins. The
file is JSON, ``{"groups": {GROUP_ID: {"cluster": "ID/GENERATION", "seq": n or null}}}``. It is safe to delete
the file: the client only forgets its pins.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Self

import msgspec

from attestation import files
from attestation.tickets.protocol import Cluster
from node.environment import read_environment
from node.errors import ConfigError, NodeError

BYTES_MAX: Final = 1024 * 1024


def default_pins() -> Path:
    """Return the file of this user, after the XDG base directory specification."""
    return (read_environment().state_home or Path.home() / ".local" / "state") / "bondstone" / "pins.json"


class PinError(NodeError):
    """The cluster or certificate verified now is another one, or an older one, than the pinned one.

    ``reason`` is ``cluster-changed`` or ``birth-certificate-superseded``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class _Pin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    cluster: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}/[0-9]{1,10}$")]
    seq: Annotated[int, msgspec.Meta(ge=1)] | None = None


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    groups: dict[Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")], _Pin] = {}


@dataclass(frozen=True, slots=True)
class Pins:
    """The pins of one file, as a value: ``with_verified`` returns a new value, ``save`` writes the file."""

    path: Path
    _file: _File

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file; a missing file means that there are no pins.

        Raises:
            ConfigError: it cannot be read, or is damaged.
        """
        try:
            data = files.read_bytes(path, bytes_max=BYTES_MAX)
            return cls(path, msgspec.json.decode(data, type=_File))
        except files.FileError as exc:
            if exc.absent:
                return cls(path, _File())
            raise ConfigError(str(exc)) from exc
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{path}: {exc}; delete it to forget what was verified") from exc

    def with_verified(self, group_id: bytes, cluster: Cluster, seq: int | None) -> Self:
        """Return the pins with this verified cluster added.

        Args:
            group_id: 32 bytes.
            cluster: the cluster that the node's quote names.
            seq: of the birth certificate that names it; None without an authority.

        Raises:
            PinError: another cluster than before without a newer birth certificate, or an older one.
        """
        known = self._file.groups.get(group_id.hex())
        if known is not None:
            if seq is not None and known.seq is not None and seq < known.seq:
                raise PinError(
                    "birth-certificate-superseded",
                    f"the birth certificate is number {seq}, and number {known.seq} was seen before",
                )
            succeeded = seq is not None and seq > (known.seq or 0)
            if str(cluster) != known.cluster and not succeeded:
                raise PinError(
                    "cluster-changed",
                    f"cluster {known.cluster} was verified before, and this is {cluster}: the group was"
                    " founded anew, or this is another one under the same GroupId",
                )
            seq = max(seq or 0, known.seq or 0) or None
        pin = _Pin(cluster=str(cluster), seq=seq)
        return type(self)(self.path, _File(groups={**self._file.groups, group_id.hex(): pin}))

    def without(self, group_id: bytes) -> Self:
        """Return the pins without this group. Only the user may decide that."""
        kept = {key: pin for key, pin in self._file.groups.items() if key != group_id.hex()}
        return type(self)(self.path, _File(groups=kept))

    def save(self) -> None:
        """Write the file.

        Raises:
            ConfigError: it cannot be written.
        """
        try:
            files.make_directory(self.path.parent, mode=0o700)
            files.replace(self.path, msgspec.json.format(msgspec.json.encode(self._file)) + b"\n", mode=0o600)
        except files.FileError as exc:
            raise ConfigError(str(exc)) from exc
