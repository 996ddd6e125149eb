"""Whether the group document permits a survivor to found a new generation, and the authority's approval.

    approval    [[kid, signature]...]    deterministic CBOR; each signature is over ``recovery_statement``

A group with an ``[authority]`` needs ``threshold`` of its signatures. A group without one needs no approval
beside the operator's role.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from attestation.encoding.canonical import decode_untrusted, encode
from attestation.errors import MalformedError
from node.authority import KEYS_MAX, Authority, AuthorityError, PrivateKey, sign

APPROVAL_BYTES_MAX: Final = 4096
_ITEMS_MAX: Final = 4 * KEYS_MAX


@dataclass(frozen=True, slots=True)
class SurvivorRecovery:
    """The rule of a group whose document has ``[recovery] authorize = "survivor"``."""

    authority: Authority | None

    def permits(self, statement: bytes, approval: bytes) -> bool:
        """Return whether ``approval`` suffices for ``statement``, 32 bytes."""
        if self.authority is None:
            return not approval
        try:
            self.authority.require_signed(statement, signatures_untrusted(approval))
        except AuthorityError:
            return False
        return True


def signatures_untrusted(approval: bytes) -> tuple[tuple[str, bytes], ...]:
    """Return the signatures of an approval, not verified.

    Raises:
        AuthorityError: ``approval-malformed``.
    """
    try:
        value = decode_untrusted(approval, bytes_max=APPROVAL_BYTES_MAX, items_max=_ITEMS_MAX)
    except MalformedError as exc:
        raise AuthorityError("approval-malformed", f"the approval is malformed: {exc}") from exc
    if type(value) is not list or len(value) > KEYS_MAX:
        raise AuthorityError("approval-malformed", "the approval is no list of signatures")
    found = []
    for one in value:
        match one:
            case [str(kid), bytes(signature)]:
                found.append((kid, signature))
            case _:
                raise AuthorityError("approval-malformed", "the approval is no list of signatures")
    return tuple(found)


def approve(statement: bytes, authority: Authority, keys: Iterable[PrivateKey]) -> bytes:
    """Return the approval that these keys of ``authority`` give to ``statement``.

    Raises:
        AuthorityError: a key is not the authority's, or they are too few.
    """
    signatures = [(authority.kid_of(key), sign(key, statement)) for key in keys]
    authority.require_signed(statement, signatures)
    return encode([[kid, signature] for kid, signature in signatures])
