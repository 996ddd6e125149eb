"""The birth certificate: the authority's statement that this very cluster is the group.

    statement    {"group_id", "cluster_id", "generation", "seq", "predecessor" or null, "signed_at"}
    signed       digest("bondstone/cluster-statement/v1", statement), 32 bytes
    certificate  {"statement": statement, "signatures": [[kid, signature]...]}       deterministic CBOR

``seq`` begins with 1. A successor has a higher one and names, as its predecessor, the cluster before it. So a
client that has seen a later certificate refuses an earlier one. Times are whole Unix seconds, by the signer's
clock.

The certificate proves itself, so any node may hand it out and none needs to be trusted for it. The group
keeps it in its system state; that only makes it easy to find.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from attestation.encoding.canonical import decode_untrusted, digest, encode
from attestation.encoding.fields import StrictMap, bytes_of, integer, optional
from attestation.errors import MalformedError
from attestation.tickets.protocol import CLUSTER_ID_BYTES, GENERATION_MAX, Cluster
from node.authority import KEYS_MAX, KID_CHARACTERS_MAX, SIGNATURE_BYTES, Authority, AuthorityError
from node.machines.base import ApplyContext, CommandError, StateMachine
from node.machines.system import CombinedSystem, RequestKind, SystemPart, SystemState

CERTIFICATE_BYTES_MAX: Final = 4096
_CERTIFICATE_ITEMS_MAX: Final = 32 + 8 * KEYS_MAX  # the statement, and each signature with its key
GROUP_ID_BYTES: Final = 32
SEQ_MAX: Final = 2**53
_SECONDS_MAX: Final = 253_402_300_799  # the last second of the year 9999
_STATEMENT_KEYS: Final = frozenset(
    {"group_id", "cluster_id", "generation", "seq", "predecessor", "signed_at"}
)

PART: Final = "birth"
CONFIRM: Final = "cluster-confirm"
SHOW: Final = "cluster-confirmed"


@dataclass(frozen=True, slots=True, kw_only=True)
class BirthStatement:
    """What the authority signs.

    Attributes:
        group_id: 32 bytes.
        cluster: the cluster that is the group.
        seq: from 1; rises with every successor.
        predecessor: the cluster id before this one, 32 bytes; None for the first.
        signed_at: whole Unix seconds.
    """

    group_id: bytes
    cluster: Cluster
    seq: int
    predecessor: bytes | None
    signed_at: int

    def to_value(self) -> dict[str, Any]:
        return {
            "group_id": self.group_id,
            "cluster_id": self.cluster.id,
            "generation": self.cluster.generation,
            "seq": self.seq,
            "predecessor": self.predecessor,
            "signed_at": self.signed_at,
        }

    @property
    def digest(self) -> bytes:
        """The 32 bytes that are signed."""
        return digest("bondstone/cluster-statement/v1", self.to_value())


@dataclass(frozen=True, slots=True, kw_only=True)
class BirthCertificate:
    """A statement with signatures that are not verified yet: see :meth:`verified`."""

    statement: BirthStatement
    signatures: tuple[tuple[str, bytes], ...]

    def encode(self) -> bytes:
        signatures = [[kid, signature] for kid, signature in self.signatures]
        return encode({"statement": self.statement.to_value(), "signatures": signatures})

    def with_signature(self, kid: str, signature: bytes) -> "BirthCertificate":
        """Return it with one more signature, which replaces one by the same key; sorted by key."""
        kept = [item for item in self.signatures if item[0] != kid]
        return replace(self, signatures=tuple(sorted([*kept, (kid, signature)])))

    def verified(self, authority: Authority, *, group_id: bytes) -> "ConfirmedCluster":
        """Return which cluster the authority confirms for this group.

        Raises:
            AuthorityError: ``birth-certificate-group``, or why the signatures do not suffice.
        """
        if self.statement.group_id != group_id:
            raise AuthorityError("birth-certificate-group", "the birth certificate is another group's")
        authority.require_signed(self.statement.digest, self.signatures)
        return ConfirmedCluster(statement=self.statement)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmedCluster:
    """A statement that the group's authority has signed. Made by :meth:`BirthCertificate.verified`."""

    statement: BirthStatement

    @property
    def cluster(self) -> Cluster:
        return self.statement.cluster

    def require_cluster(self, cluster: Cluster) -> None:
        """Require that this cluster is the confirmed one.

        Raises:
            AuthorityError: ``birth-certificate-cluster``.
        """
        if cluster != self.cluster:
            raise AuthorityError(
                "birth-certificate-cluster",
                f"the authority has confirmed cluster {self.cluster}, and this is {cluster}",
            )

    def require_not_before(self, seq: int) -> None:
        """Require that it is not older than the newest one that was seen before.

        Raises:
            AuthorityError: ``birth-certificate-superseded``.
        """
        if self.statement.seq < seq:
            raise AuthorityError(
                "birth-certificate-superseded",
                f"this birth certificate is number {self.statement.seq}, and number {seq} was seen before",
            )


def birth_certificate_untrusted(data: bytes) -> BirthCertificate:
    """Parse a certificate, without any verification.

    Raises:
        AuthorityError: ``birth-certificate-malformed``.
    """
    if len(data) > CERTIFICATE_BYTES_MAX:
        raise _malformed(f"larger than {CERTIFICATE_BYTES_MAX} bytes")
    try:
        value = decode_untrusted(data, bytes_max=CERTIFICATE_BYTES_MAX, items_max=_CERTIFICATE_ITEMS_MAX)
    except MalformedError as exc:
        raise _malformed(exc.message) from exc
    match value:
        case {"statement": dict(statement), "signatures": [*signatures]} if (
            len(value) == 2 and len(signatures) <= KEYS_MAX
        ):
            parsed = BirthCertificate(
                statement=_statement(statement), signatures=tuple(_signature(item) for item in signatures)
            )
        case _:
            raise _malformed("not a statement and its signatures")
    if parsed.encode() != data:
        raise _malformed("not the one encoding of what it says")
    return parsed


def _statement(value: dict[Any, Any]) -> BirthStatement:
    members = StrictMap(value, error=_wrong_member, names=_STATEMENT_KEYS)
    return BirthStatement(
        group_id=members.take("group_id", bytes_of(GROUP_ID_BYTES)),
        cluster=Cluster(
            id=members.take("cluster_id", _CLUSTER_ID),
            generation=members.take("generation", integer(0, GENERATION_MAX)),
        ),
        seq=members.take("seq", integer(1, SEQ_MAX)),
        predecessor=members.take("predecessor", optional(_CLUSTER_ID)),
        signed_at=members.take("signed_at", integer(0, _SECONDS_MAX)),
    )


def _signature(item: Any) -> tuple[str, bytes]:
    match item:
        case [str(kid), bytes(signature)] if (
            1 <= len(kid) <= KID_CHARACTERS_MAX and len(signature) == SIGNATURE_BYTES
        ):
            return kid, signature
        case _:
            raise _malformed(f"a signature is a key's id and {SIGNATURE_BYTES} bytes")


_CLUSTER_ID: Final = bytes_of(CLUSTER_ID_BYTES)


def _wrong_member(path: str, text: str) -> AuthorityError:
    return _malformed(f"its {path or 'statement'} {text}")


def _malformed(text: str) -> AuthorityError:
    return AuthorityError("birth-certificate-malformed", f"this is no birth certificate: {text}")


# ---- in the group's system state ------------------------------------------------------------------------
class BirthState(SystemPart):
    """Keeps the newest certificate.

    Commands:

        ["cluster-confirm", certificate]   -> {"seq"}     the bytes; its signatures authorise the command

    Queries: ``["cluster-confirmed"]`` -> the newest certificate's bytes, or null.

    The state does not know in which cluster it is, and keeps a certificate of any cluster of the group: the
    authority's signature makes it true. A node hands in only one that confirms its own cluster, and a reader
    compares.

    Args:
        authority: the group document's; None if it names none: in that case nothing can be confirmed.
        group_id: 32 bytes.
    """

    def __init__(self, authority: Authority | None, group_id: bytes) -> None:
        self._authority = authority
        self._group_id = group_id
        self._certificate: bytes | None = None
        self._seq = 0

    @property
    def part(self) -> str:
        return PART

    @property
    def names(self) -> frozenset[str]:
        return frozenset({CONFIRM, SHOW})

    @property
    def certificate(self) -> bytes | None:
        """The newest certificate, as it was signed."""
        return self._certificate

    def judge(
        self,
        credential: bytes | None,
        request: RequestKind,
        value: Any,
        *,
        now_ms: int,
        machine: StateMachine,
    ) -> None:
        """Refuse no caller here: a certificate's signatures authorise it."""

    def check(self, data: bytes) -> ConfirmedCluster:
        """Return what a certificate confirms, if ``apply`` would accept it now.

        Raises:
            AuthorityError: ``authority-none``, ``birth-certificate-superseded``, or why it does not verify.
        """
        if self._authority is None:
            raise AuthorityError("authority-none", "the group document names no authority")
        confirmed = birth_certificate_untrusted(data).verified(self._authority, group_id=self._group_id)
        if data != self._certificate:
            confirmed.require_not_before(self._seq + 1)
        return confirmed

    def apply(self, command: Any, context: ApplyContext) -> Any:  # noqa: ARG002
        match command:
            case [str(name), bytes(data)] if name == CONFIRM:
                try:
                    confirmed = self.check(data)
                except AuthorityError as exc:
                    raise CommandError(exc.reason, exc.message) from exc
                self._certificate, self._seq = data, confirmed.statement.seq
                return {"seq": self._seq}
            case _:
                raise CommandError("system-command-malformed", f"the command is [{CONFIRM!r}, certificate]")

    def query(self, query: Any) -> Any:
        match query:
            case [str(name)] if name == SHOW:
                return self._certificate
            case _:
                raise CommandError("system-query-malformed", f"the query is [{SHOW!r}]")

    def savepoint(self) -> tuple[bytes | None, int]:
        return self._certificate, self._seq

    def rollback(self, savepoint: tuple[bytes | None, int]) -> None:
        self._certificate, self._seq = savepoint

    def snapshot(self) -> Any:
        return self._certificate

    def restore(self, snapshot: Any) -> None:
        self._certificate, self._seq = None, 0
        if snapshot is not None:
            self._seq = self.check(snapshot).statement.seq
            self._certificate = snapshot


def birth_of(system: SystemState) -> BirthState:
    """Return the part of a node's system state that keeps the certificate."""
    assert isinstance(system, CombinedSystem), "the daemon makes it of parts"
    part = system[PART]
    assert isinstance(part, BirthState), "the daemon gives it this name"
    return part


def first_statement(group_id: bytes, cluster: Cluster, *, now_s: int) -> BirthStatement:
    """Return the statement for a group's first cluster."""
    return BirthStatement(group_id=group_id, cluster=cluster, seq=1, predecessor=None, signed_at=now_s)


def next_statement(before: BirthStatement, cluster: Cluster, *, now_s: int) -> BirthStatement:
    """Return the statement for the cluster that succeeds the one in ``before``."""
    return replace(
        before, cluster=cluster, seq=before.seq + 1, predecessor=before.cluster.id, signed_at=now_s
    )


def signatures_of(certificates: Iterable[BirthCertificate]) -> BirthCertificate:
    """Return one certificate with the signatures of several over the same statement.

    Raises:
        AuthorityError: ``birth-certificate-mixed``: the statements differ, or there are no certificates.
    """
    merged: BirthCertificate | None = None
    for certificate in certificates:
        if merged is None:
            merged = certificate
            continue
        if certificate.statement != merged.statement:
            raise AuthorityError(
                "birth-certificate-mixed", "the files hold signatures over different statements"
            )
        for kid, signature in certificate.signatures:
            merged = merged.with_signature(kid, signature)
    if merged is None:
        raise AuthorityError("birth-certificate-mixed", "there is nothing to merge")
    return merged
