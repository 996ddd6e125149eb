"""The interface between a node and the trust domain that it runs in."""

from typing import Protocol

REPORT_DATA_BYTES = 64


class Attester(Protocol):
    """What a node needs from its TD. The real one uses configfs-tsm; the mock one is in ``enclave.mock``."""

    @property
    def mock(self) -> bool:
        """True if the quotes are not rooted in Intel hardware."""
        ...

    @property
    def provider(self) -> str:
        """The kernel's name of the provider (``tdx_guest``), or ``mock``."""
        ...

    def quote(self, report_data: bytes) -> bytes:
        """Return a quote over exactly 64 bytes of REPORTDATA. Blocking.

        Raises:
            NotATrustDomainError: there is no TD here.
            QuoteUnavailableError: retries did not help.
        """
        ...

    def event_log(self) -> bytes | None:
        """Return the CCEL event log (TCG2 crypto-agile bytes), or None if the platform has none."""
        ...
