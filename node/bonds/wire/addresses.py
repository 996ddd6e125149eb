"""``host:port``, the only form of an address in configurations, on the wire and in the audit log."""

import ipaddress
import re
from typing import Final

ADDRESS_CHARS_MAX: Final = 262  # a DNS name of 253, a colon, a port, brackets
_ADDRESS: Final = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", re.ASCII
)


def split_address(address: str) -> tuple[str, int]:
    """Return host and port; an IPv6 host loses its brackets. Port 0, for listening, is allowed.

    Raises:
        ValueError: ``address`` does not have the form ``host:port`` (``[::1]:7443`` for IPv6).
    """
    match = _ADDRESS.fullmatch(address) if len(address) <= ADDRESS_CHARS_MAX else None
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"{address[:ADDRESS_CHARS_MAX]!r} is not host:port")
    return match[1] or match[2], int(match[3])


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_address(address: str) -> bool:
    """Return whether ``address`` can be dialled."""
    try:
        return split_address(address)[1] > 0
    except ValueError:
        return False


def is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
