"""The attester (RATS, RFC 9334): the facilities inside a trust domain.

    from datetime import UTC, datetime
    from enclave import Identity
    from enclave.mock import MockAuthority

    now = datetime.now(UTC)
    identity = Identity.generate("node-a", now)          # a key that is born in this process
    authority = MockAuthority.create(now)                # signs as Intel would, under a root of its own
    td = authority.create_td(mrtd=bytes(48))
    quote = td.quote(report_data=bytes(64))

A real TD is ``TsmAttester()``: the same interface, over the kernel's configfs-tsm. The mock's quotes verify
under ``authority.trust_root`` alone, and every result from them is marked as mock.

These names are the package's interface. The modules behind them may move.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from enclave.attester import Attester as Attester
    from enclave.errors import EnclaveError as EnclaveError
    from enclave.errors import NotATrustDomainError as NotATrustDomainError
    from enclave.errors import QuoteUnavailableError as QuoteUnavailableError
    from enclave.identity import Identity as Identity
    from enclave.issuer import TdxTicketIssuer as TdxTicketIssuer
    from enclave.tsm import TsmAttester as TsmAttester

# The module of each name. A name is imported at its first use, so that one command does not load everything.
_PLACES: Final = {
    "Attester": "enclave.attester",
    "EnclaveError": "enclave.errors",
    "Identity": "enclave.identity",
    "NotATrustDomainError": "enclave.errors",
    "QuoteUnavailableError": "enclave.errors",
    "TdxTicketIssuer": "enclave.issuer",
    "TsmAttester": "enclave.tsm",
}
__all__ = [
    "Attester",
    "EnclaveError",
    "Identity",
    "NotATrustDomainError",
    "QuoteUnavailableError",
    "TdxTicketIssuer",
    "TsmAttester",
]


def __getattr__(name: str) -> Any:
    """Import a name of the interface at its first use (PEP 562)."""
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(place), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
