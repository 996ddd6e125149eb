"""The group's own certification authority, as replicated state: its certificate, and its private key.

There is one command, which only members may use. A leader makes the key outside of the log and proposes it:

    ["group-ca-found", certificate, private number]     -> SHA-256 of the certificate that the group has now
                                                           DER; 32 bytes, big-endian

The first one stays for as long as the state does: through restarts, and through the recovery by a survivor.
The query ``["group-ca"]`` gives the certificate, or null. No command, query or result gives the key: it is in
memory of the members, in what they send each other over bonds, and, for a group that trusts its disks, there.
"""

from typing import Any, Final

from node.ca.certificates import KEY_BYTES, CertificateAuthority, digest_of
from node.machines.base import ApplyContext, CommandError, StateMachine
from node.machines.system import CombinedSystem, RequestKind, SystemPart, SystemState, name_of
from node.system.grants import not_permitted

PART: Final = "ca"
FOUND: Final = "group-ca-found"
SHOW: Final = "group-ca"
LEVEL: Final = 3  # the feature level at which it is written
CERTIFICATE_BYTES_MAX: Final = 32 * 1024  # with 64 names of the greatest length


class CaState(SystemPart):
    """Keeps the authority, once there is one."""

    def __init__(self) -> None:
        self._held: tuple[bytes, bytes] | None = None

    @property
    def part(self) -> str:
        return PART

    @property
    def names(self) -> frozenset[str]:
        return frozenset({FOUND, SHOW})

    @property
    def came_later(self) -> bool:
        return True

    @property
    def certificate(self) -> bytes | None:
        """The authority's certificate, DER."""
        return None if self._held is None else self._held[0]

    def authority(self) -> CertificateAuthority | None:
        """Return the authority, to issue certificates with.

        Raises:
            ValueError: the member that proposed it did not propose a certificate and its key.
        """
        return None if self._held is None else CertificateAuthority.load(*self._held)

    def judge(
        self,
        credential: bytes | None,
        request: RequestKind,
        value: Any,
        *,
        now_ms: int,  # noqa: ARG002
        machine: StateMachine,  # noqa: ARG002
    ) -> None:
        if request is RequestKind.SYSTEM_COMMAND and name_of(value) == FOUND and credential is not None:
            raise not_permitted("the group's authority is made by its members alone")

    def apply(self, command: Any, context: ApplyContext) -> bytes:  # noqa: ARG002
        match command:
            case [str(name), bytes(certificate), bytes(key)] if (
                name == FOUND and 0 < len(certificate) <= CERTIFICATE_BYTES_MAX and len(key) == KEY_BYTES
            ):
                if self._held is None:
                    self._held = certificate, key
                return digest_of(self._held[0])
            case _:
                raise CommandError(
                    "system-command-malformed", f"the command is [{FOUND!r}, certificate, private number]"
                )

    def query(self, query: Any) -> bytes | None:
        match query:
            case [str(name)] if name == SHOW:
                return self.certificate
            case _:
                raise CommandError("system-query-malformed", f"the query is [{SHOW!r}]")

    def savepoint(self) -> tuple[bytes, bytes] | None:
        return self._held

    def rollback(self, savepoint: tuple[bytes, bytes] | None) -> None:
        self._held = savepoint

    def snapshot(self) -> list[bytes] | None:
        return None if self._held is None else list(self._held)

    def restore(self, snapshot: Any) -> None:
        """Replace everything.

        Raises:
            ValueError: this is not a snapshot of this state; the state is unchanged.
        """
        match snapshot:
            case None:
                self._held = None
            case [bytes(certificate), bytes(key)] if (
                0 < len(certificate) <= CERTIFICATE_BYTES_MAX and len(key) == KEY_BYTES
            ):
                self._held = certificate, key
            case _:
                raise ValueError("not a snapshot of the group's authority")


def command_of(authority: CertificateAuthority) -> list[Any]:
    """Return the command that makes this the group's authority."""
    return [FOUND, authority.certificate_der, authority.key_bytes]


def ca_of(system: SystemState) -> CaState:
    """Return this part of a group's system state."""
    assert isinstance(system, CombinedSystem), "every group's system state has parts"
    part = system[PART]
    assert isinstance(part, CaState), "one part has this name"
    return part
