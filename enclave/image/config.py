"""The configuration that an untrusted host hands to a guest.

One JSON document, through fw_cfg (``opt/bondstone/config``) or at the start of a small read-only disk::

    {"version": 1,
     "files": {"node.toml": "...", "group.toml": "..."},
     "addresses": {"eth1": "10.77.0.1/24"}}

The guest trusts nothing in it just because it is there. The group document, one of the files, decides: it is
in the GroupId. If the host sets MRCONFIGID, that is SHA-384 of the document's canonical form, and the guest
compares it before its node does anything. The other contents can only cost availability.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Interface, NetmaskValueError
from types import MappingProxyType
from typing import Any, Final

from attestation.encoding.fields import StrictMap, anything, integer
from attestation.encoding.strict_json import parse_strict_untrusted
from attestation.errors import MalformedError
from enclave.image.errors import GuestConfigError

CONFIG_BYTES_MAX: Final = 256 * 1024
FILES_MAX: Final = 32
FILE_CHARACTERS_MAX: Final = 128 * 1024
ADDRESSES_MAX: Final = 4

DISK_MAGIC: Final = b"BONDSTONE-CONFIG"
"""The first 16 bytes of a configuration disk; then u32 length (little-endian), then the document."""
DISK_HEADER_BYTES: Final = len(DISK_MAGIC) + 4
DISK_SECTOR_BYTES: Final = 512

MR_CONFIG_ID_BYTES: Final = 48

# Files that a node reads. No ending here is one that an interpreter, a loader or a shell would run.
_ENDINGS: Final = ("toml", "pem", "json", "jwt")
_SECRET_ENDINGS: Final = ("key",)
_NAME: Final = "[a-z0-9][a-z0-9_-]{0,30}"
_FILE_NAME: Final = re.compile(rf"(?:{_NAME}/)?{_NAME}\.({'|'.join((*_ENDINGS, *_SECRET_ENDINGS))})")
_INTERFACE: Final = re.compile(r"eth[0-9]")
_VERSION: Final = integer(1, 1)
_DEPTH_MAX: Final = 4
_VALUES_MAX: Final = 256  # several times what the largest configuration has; the files are texts in it
NODE_FILE: Final = "node.toml"
_SECRET_KEYS: Final = ("key", "key_file")


class Profile(StrEnum):
    """Which image this is; the profile is part of the measured initrd."""

    PROD = "prod"
    EMULATION = "emulation"
    """Production with a mock TD in it, for guests without TDX."""
    DEBUG = "debug"

    @property
    def has_mock(self) -> bool:
        """Whether its node can be a mock TD. A production image does not even contain the code for it."""
        return self is not Profile.PROD

    @property
    def takes_secrets(self) -> bool:
        """Whether it takes a group key from its host, which then knows it."""
        return self is Profile.DEBUG


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestConfig:
    """A configuration that a guest of the given profile may start with."""

    files: Mapping[str, str]
    """Relative name to contents; ``node.toml`` is always among them."""
    addresses: Mapping[str, IPv4Interface]
    """Interface to static address, for links without DHCP."""


def parse_guest_config_untrusted(data: bytes, *, profile: Profile) -> GuestConfig:
    """Parse the document.

    Raises:
        GuestConfigError: too large, malformed, or with a setting that this image refuses (a group key, a mock
            TD).
    """
    if len(data) > CONFIG_BYTES_MAX:
        raise GuestConfigError(
            "config-too-large", f"a configuration of {len(data)} bytes, at most {CONFIG_BYTES_MAX}"
        )
    document = StrictMap(
        _json_untrusted(data),
        error=_wrong_member,
        names=("version", "files", "addresses"),
        optional=("files", "addresses"),
    )
    document.take("version", _VERSION)
    endings = _ENDINGS + (_SECRET_ENDINGS if profile.takes_secrets else ())
    files = _files(document.take("files", anything) if "files" in document else {}, endings)
    node = _node_table(files[NODE_FILE])
    if not profile.takes_secrets:
        _refuse_secrets(node)
    if not profile.has_mock:
        _refuse_mock(node)
    return GuestConfig(
        files=MappingProxyType(files),
        addresses=MappingProxyType(
            _addresses(document.take("addresses", anything)) if "addresses" in document else {}
        ),
    )


def require_measured(own: bytes, mr_config_id: bytes) -> None:
    """Raise unless MRCONFIGID is unset (all zeros), or is ``own``, the digest of the loaded group document.

    Only the verifier of the quote can require that it *is* set (``mrconfigid = "own"`` in its policy). This
    check does not detect a host that leaves it unset.

    Raises:
        GuestConfigError: another group document was measured into the TD.
    """
    if len(mr_config_id) != MR_CONFIG_ID_BYTES:
        raise GuestConfigError("mrconfigid-length", f"MRCONFIGID has {len(mr_config_id)} bytes")
    if any(mr_config_id) and mr_config_id != own:
        raise GuestConfigError(
            "mrconfigid-mismatch",
            f"the group document's SHA-384 is {own.hex()}, but MRCONFIGID is "
            f"{mr_config_id.hex()}: the host handed over another document than it declared",
        )


def encode_guest_config(files: Mapping[str, str], *, addresses: Mapping[str, str] | None = None) -> bytes:
    """Return the document's bytes. The parser's rules are applied when a guest reads it, not here."""
    document: dict[str, Any] = {"version": 1, "files": dict(files)}
    if addresses:
        document["addresses"] = dict(addresses)
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def encode_config_disk(document: bytes) -> bytes:
    """Return a disk that carries ``document``, filled up to whole sectors."""
    disk = DISK_MAGIC + len(document).to_bytes(4, "little") + document
    return disk.ljust(-(-len(disk) // DISK_SECTOR_BYTES) * DISK_SECTOR_BYTES, b"\0")


def config_disk_length_untrusted(header: bytes) -> int | None:
    """Return how many bytes of document follow this header, or None if the disk carries no configuration.

    Raises:
        GuestConfigError: the document is too large; nothing of it has been read yet.
    """
    if len(header) < DISK_HEADER_BYTES or header[: len(DISK_MAGIC)] != DISK_MAGIC:
        return None
    length = int.from_bytes(header[len(DISK_MAGIC) : DISK_HEADER_BYTES], "little")
    if length > CONFIG_BYTES_MAX:
        raise GuestConfigError(
            "config-too-large", f"a configuration of {length} bytes, at most {CONFIG_BYTES_MAX}"
        )
    return length


def _json_untrusted(data: bytes) -> Any:
    try:
        return parse_strict_untrusted(data, depth_max=_DEPTH_MAX, values_max=_VALUES_MAX)
    except MalformedError as exc:
        raise GuestConfigError("config-json", f"the configuration is not JSON: {exc.message}") from exc


def _wrong_member(path: str, text: str) -> GuestConfigError:
    return GuestConfigError("config-members", f"the configuration's {path or 'outer value'} {text}")


def _files(value: Any, endings: tuple[str, ...]) -> dict[str, str]:
    if not isinstance(value, dict) or not 1 <= len(value) <= FILES_MAX:
        raise GuestConfigError("config-files", f"files must be an object of 1 to {FILES_MAX}")
    for name, contents in value.items():
        named = _FILE_NAME.fullmatch(name)
        if named is None or named[1] not in endings:
            raise GuestConfigError(
                "config-file-name",
                f"{name!r} cannot be the name of a configuration's file: it takes lower-case letters, "
                f"digits, _ and -, at most one folder, and an ending out of {', '.join(endings)}",
            )
        if not isinstance(contents, str) or len(contents) > FILE_CHARACTERS_MAX:
            raise GuestConfigError("config-file-contents", f"{name} is not a text, or too long")
    if NODE_FILE not in value:
        raise GuestConfigError("config-node-missing", f"there is no {NODE_FILE} among the files")
    return dict(value)


def _addresses(value: Any) -> dict[str, IPv4Interface]:
    if not isinstance(value, dict) or len(value) > ADDRESSES_MAX:
        raise GuestConfigError("config-addresses", f"addresses must be an object of up to {ADDRESSES_MAX}")
    found: dict[str, IPv4Interface] = {}
    for interface, address in value.items():
        if not _INTERFACE.fullmatch(interface) or not isinstance(address, str) or "/" not in address:
            raise GuestConfigError(
                "config-addresses", f"{interface}: {address} is not eth0..9 and ADDRESS/PREFIX"
            )
        try:
            found[interface] = IPv4Interface(address)
        except (AddressValueError, NetmaskValueError, ValueError) as exc:
            raise GuestConfigError("config-addresses", f"{interface}: {exc}") from exc
    return found


def _node_table(node_toml: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(node_toml)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise GuestConfigError("config-node-toml", f"{NODE_FILE} is not TOML: {exc}") from exc


def _refuse_secrets(node: Mapping[str, Any]) -> None:
    """Refuse a group key from the host: it would know the group's secret (use ``bondstone provision``)."""
    group = node.get("group", {})
    named = [key for key in _SECRET_KEYS if isinstance(group, dict) and key in group]
    if named or not isinstance(group, dict):
        raise GuestConfigError(
            "config-group-key",
            f"{NODE_FILE} gives the group's key ({', '.join(named) or 'group is not a table'}), which only a "
            'debug image takes from its host: derive it (key = "derived" in the group document), or wait '
            "for it (await_key = true) and send it with `bondstone provision`",
        )


def _refuse_mock(node: Mapping[str, Any]) -> None:
    attestation = node.get("attestation", {})
    if not isinstance(attestation, dict) or attestation.get("mode", "tdx") != "tdx" or "mock" in attestation:
        raise GuestConfigError(
            "config-mock",
            f"{NODE_FILE} asks for a mock TD, but a production image has none: guests without TDX are "
            "started from an image of the profile emulation",
        )
