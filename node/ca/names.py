"""Which names the group's authority certifies: those that the group document lists in ``ca.names``."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from node.errors import NodeError

_WILDCARD: Final = "*."

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class NameNotPermittedError(NodeError):
    """The group document does not list this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not among the names that the group document lists in [ca] names")
        self.name = name


@dataclass(frozen=True, slots=True)
class PermittedNames:
    """The names of a group document. Empty: the group has no authority of its own.

    Attributes:
        domains: DNS names in lower case; ``*.example.com`` stands for every name with one label more.
        networks: of IP addresses.
    """

    domains: tuple[str, ...]
    networks: tuple[IpNetwork, ...]

    @classmethod
    def of(cls, names: Iterable[str]) -> "PermittedNames":
        """Return the names as the group document's canonical form has them."""
        domains, networks = [], []
        for name in names:
            try:
                networks.append(ipaddress.ip_network(name))
            except ValueError:
                domains.append(name)
        return cls(tuple(domains), tuple(networks))

    def __bool__(self) -> bool:
        return bool(self.domains or self.networks)

    def permits(self, name: str) -> bool:
        """Return whether the authority may certify this DNS name or IP address."""
        address = address_of(name)
        if address is not None:
            return any(address in network for network in self.networks)
        name = name.lower()
        _, _, parent = name.partition(".")
        return name in self.domains or (
            bool(parent) and not name.startswith(_WILDCARD) and _WILDCARD + parent in self.domains
        )

    def require(self, name: str) -> str:
        """Return ``name``, if it is permitted.

        Raises:
            NameNotPermittedError: the group document does not list it.
        """
        if not self.permits(name):
            raise NameNotPermittedError(name)
        return name


def address_of(name: str) -> IpAddress | None:
    """Return the IP address that a name is; None if it is a DNS name."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
