"""What the other tables mean: founding, consensus, policy, root, authority, and the names of ``[ca]``.

Each function raises ``TableError`` for a value that is not allowed.
"""

import re
from ipaddress import ip_network
from typing import Any, Final

from attestation.encoding.toml_tables import TableError
from attestation.errors import MalformedError
from attestation.policy.rules import REGISTERS, ZERO_MEASUREMENT, AppraisalPolicy
from attestation.policy.toml import policy_from_table_untrusted
from attestation.x509.trust import INTEL_SGX_ROOT, TrustRoot
from node.authority import Authority, AuthorityError, AuthorityKey, authority_of
from node.group_document.tables import INTEL, AuthorityTable, DocumentFile, TrustTable
from node.raft.types import Bootstrap, Founding, Settings


def founding_of(text: str) -> Founding:
    """Return how the group is founded, from ``group.bootstrap``."""
    match text.split(" "):
        case ["init"]:
            return Founding(bootstrap=Bootstrap.INIT)
        case ["auto"]:
            return Founding(bootstrap=Bootstrap.AUTO)
        case ["expect", count] if count in _COUNTS:
            return Founding(bootstrap=Bootstrap.EXPECT, expect=int(count))
        case _:
            raise TableError(
                "group.bootstrap",
                f'{text!r} is not "expect N" (1 to 31), "init" or "auto"; '
                '"join" is for the node file of a node that must not found',
            )


_COUNTS: Final = frozenset(str(count) for count in range(1, 32))


def settings_of(file: DocumentFile) -> Settings:
    """Return the settings of consensus, which do not contradict each other."""
    given = {
        name: getattr(file.consensus, name)
        for name in file.consensus.__struct_fields__
        if name not in NOT_SETTINGS
    }
    settings = Settings(
        **given, trust_disk=file.group.storage == "trust-disk", quota_bytes=file.store.quota_bytes
    )
    if contradiction := settings.contradiction():
        raise TableError("consensus", contradiction)
    return settings


NOT_SETTINGS: Final[frozenset[str]] = frozenset()
"""Keys of ``[consensus]`` that no code of the core reads yet."""


def policy_of(file: DocumentFile) -> AppraisalPolicy:
    """Return the policy for quotes, which binds the document if it says so."""
    policy = policy_from_table_untrusted(file.policy, path="policy")
    values = policy.reference_values
    pinned = [values.baseline, *values.variants.values()]
    if any(ZERO_MEASUREMENT in one.get("mrconfigid", ()) for one in pinned):
        raise TableError(
            "policy.reference_values",
            'mrconfigid cannot be zeros, which bind no document: write "own", or name it in not_checked '
            "for a platform that cannot set it",
        )
    assert set(values.not_checked) <= set(REGISTERS)
    return policy


def ca_name(text: str) -> str:
    """Return a DNS name in lower case, or an IP network in its canonical form."""
    try:
        return str(ip_network(text))
    except ValueError:
        if not _DNS_NAME.fullmatch(text.lower()):
            raise TableError(
                "ca.names", f"{text!r} is neither a DNS name (`*.` may be before it) nor an IP network"
            ) from None
        return text.lower()


_DNS_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# A name that ends in a number would be another spelling of an address.
_DNS_NAME: Final = re.compile(rf"(?:\*\.)?(?:{_DNS_LABEL}\.)*(?![0-9]+\Z){_DNS_LABEL}")


def root_of(table: TrustTable) -> TrustRoot:
    """Return the root that quotes must lead to."""
    if table.root == INTEL:
        return INTEL_SGX_ROOT
    try:
        return TrustRoot.from_bytes_untrusted(bytes.fromhex(table.root))
    except MalformedError as exc:
        raise TableError("trust.root", exc.message) from exc


def authority_from(table: AuthorityTable) -> Authority:
    """Return the outside keys whose signatures count."""
    try:
        keys = [AuthorityKey.of(key.id, bytes.fromhex(key.key)) for key in table.keys]
        return authority_of(table.threshold, keys)
    except AuthorityError as exc:
        raise TableError("authority.keys", exc.message) from exc
    except ValueError as exc:
        raise TableError("authority", str(exc)) from exc


def canonical_authority(authority: Authority) -> dict[str, Any]:
    """Return what of it the canonical document has."""
    return {
        "threshold": authority.threshold,
        "keys": [[one.kid, one.algorithm, one.spki] for one in authority.keys],
    }
