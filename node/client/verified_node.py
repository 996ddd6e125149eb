"""Checking a live node: its evidence, bound to the TLS key of the same connection."""

import base64
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.collateral.endorsements import Endorsements
from attestation.collateral.enforcement import Enforcement
from attestation.errors import AppraisalError, MalformedError, UndecidedError
from attestation.policy.appraise import UNKNOWN_ENFORCEMENT
from attestation.policy.rules import AppraisalPolicy
from attestation.tickets.ids import peer_id_of_spki
from attestation.tickets.protocol import ANY_CLUSTER, Cluster, ExpectedClaims, Expiration
from attestation.tickets.store import EndorsementsSource, FixedEndorsements
from attestation.tickets.tdx import TICKET_CLASS, TdxValidator, cluster_value, parse_ticket_untrusted
from attestation.x509.trust import TrustRoot
from node.api.evidence import binding_of_nonce
from node.authority import Authority, AuthorityError
from node.ca.certificates import digest_of, pem_of
from node.client.evidence import TIMEOUT_S, LiveEvidence, fetch_evidence_unauthenticated
from node.client.inputs import load_policy, load_trust_root, read_file
from node.client.pins import PinError, Pins, default_pins
from node.errors import ConfigError
from node.group_document import load_group_document
from node.system.birth import ConfirmedCluster, birth_certificate_untrusted


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedNode:
    """A live node whose evidence, TLS key and policy verdict all hold.

    Attributes:
        peer_id: of the key that the TLS connection was authenticated with, 32 bytes.
        cluster: that its quote names; None while the node holds nothing of one.
        group_ca: SHA-256 of the certificate of the group's authority, or None, as its quote
            names it.
    """

    live: LiveEvidence
    peer_id: bytes
    cluster: Cluster | None
    group_ca: bytes | None
    expiration: Expiration

    @property
    def mock(self) -> bool:
        """Whether the evidence leads to a mock root, by the verdict and not by what the node writes."""
        return bool(self.expiration.appraisal["mock"])

    def to_json_value(self) -> dict[str, Any]:
        document, at = self.live.document, self.expiration.at
        return {
            "accepted": True,
            "peer_id": self.peer_id.hex(),
            "network_id": document.network_id,
            "group_id": document.group_id,
            "cluster": cluster_value(self.cluster),
            "group_ca": None if self.group_ca is None else self.group_ca.hex(),
            "expires_at": None if at is None else at.isoformat().replace("+00:00", "Z"),
            "mock": self.mock,
            "appraisal": self.expiration.appraisal,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraiser:
    """The requirements for a node.

    Attributes:
        group_id: the group that the node must be in, hex; None: it may be in any group or in no group.
        own_config_id: SHA-384 of the canonical group document, for ``mrconfigid = "own"``.
        authority: the group document's authority, which must have confirmed the cluster; None: the document
            names no authority.
    """

    policy: AppraisalPolicy
    root: TrustRoot
    group_id: str | None
    own_config_id: bytes | None
    authority: Authority | None


def appraiser_of(
    *, group_document: Path | None, policy: Path | None, trust_root: str | None, group_id: str | None
) -> Appraiser:
    """Return the requirements from the user's files and ids. A given policy or root replaces the document's.

    Raises:
        ConfigError: a file is missing or malformed, or neither document nor policy is given.
    """
    document = None if group_document is None else load_group_document(group_document)
    if policy is not None:
        rules = load_policy(policy)
    elif document is not None:
        rules = document.policy
    else:
        raise ConfigError("which policy? hint: --group-document FILE, or --policy FILE")
    if trust_root is not None or document is None:
        root = load_trust_root(trust_root or "intel")
    else:
        root = document.root
    return Appraiser(
        policy=rules,
        root=root,
        group_id=document.group_id.hex() if group_id is None and document is not None else group_id,
        own_config_id=None if document is None else document.mrconfigid,
        authority=None if document is None else document.authority,
    )


def verify_node(
    url: str,
    *,
    appraiser: Appraiser,
    collateral: Path | None,
    enforcement: Enforcement = UNKNOWN_ENFORCEMENT,
    timeout_s: float = TIMEOUT_S,
) -> VerifiedNode:
    """Fetch and judge a node's evidence, bound to a fresh nonce and to the TLS key of the same connection.

    ``enforcement``: since when the collateral is enforced, for the policy's grace period; unknown: no grace.

    Raises:
        ConfigError: a file is missing or malformed.
        ClientError: the node cannot be reached, or its answer is not that of a node.
        TicketRejectedError: the evidence is refused, with its reason.
    """
    source: EndorsementsSource | None = None
    if collateral is not None:
        data = read_file(collateral, what="collateral")
        source = FixedEndorsements(endorsements=Endorsements.from_json_untrusted(data))
    validator = TdxValidator(
        policy=appraiser.policy,
        root=appraiser.root,
        endorsements_source=source,
        enforcement=enforcement,
        own_config_id=appraiser.own_config_id,
    )
    group_id = appraiser.group_id
    nonce = secrets.token_bytes(32)
    live = fetch_evidence_unauthenticated(url, nonce, timeout_s=timeout_s)
    raw, expected = ticket_and_claims(live, nonce, url=url)
    claimed = live.document.group_id
    if group_id is not None and claimed != group_id.lower():
        raise MalformedError("claims-group", f"{url} is in group {claimed}, not in {group_id}")
    expiration = validator.validate(raw, expected, datetime.now(UTC))
    claims = parse_ticket_untrusted(raw).claims  # REPORTDATA was checked: the quote covers them
    return VerifiedNode(
        live=live,
        peer_id=expected.peer_id,
        cluster=claims.cluster,
        group_ca=claims.group_ca,
        expiration=expiration,
    )


def ticket_and_claims(live: LiveEvidence, nonce: bytes, *, url: str) -> tuple[bytes, ExpectedClaims]:
    """Return a node's ticket, which nobody has judged yet, and the claims that its quote must confirm.

    The node itself names its network and group. Its quote covers both, so the node cannot name others to its
    peers. A user that expects a certain group names it.

    Raises:
        MalformedError: ``ticket-missing``, ``ticket-malformed`` or ``certificate-malformed``.
    """
    ticket = live.document.tickets.get(TICKET_CLASS)
    if ticket is None:
        raise MalformedError("ticket-missing", f"{url} shows no evidence of class {TICKET_CLASS}")
    try:
        certificate = x509.load_der_x509_certificate(live.certificate_der)
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise MalformedError("certificate-malformed", f"the TLS certificate of {url} cannot be read") from exc
    try:
        raw = base64.b64decode(ticket, validate=True)
    except ValueError as exc:  # no base64, or no ASCII
        raise MalformedError("ticket-malformed", f"{url} sent a ticket that is not base64") from exc
    group_id = live.document.group_id
    return raw, ExpectedClaims(
        peer_id=peer_id_of_spki(spki),
        network_id=bytes.fromhex(live.document.network_id),
        group_id=None if group_id is None else bytes.fromhex(group_id),
        binding=binding_of_nonce(nonce),
        cluster=ANY_CLUSTER,  # the quote's cluster is returned; require_cluster compares it
    )


class NotConfirmedError(UndecidedError):
    """The authority has not confirmed any cluster yet, so it is undecided whether this one is the group."""


def require_confirmed(node: VerifiedNode, authority: Authority) -> ConfirmedCluster:
    """Require that the group's authority has signed that this node's cluster is the group.

    Raises:
        ClusterUnknownError: the node is in no cluster yet.
        NotConfirmedError: the node has no birth certificate.
        AppraisalError: the certificate does not verify, or confirms another cluster.
    """
    if node.cluster is None:
        raise _in_no_cluster()
    text, group_id = node.live.document.birth_certificate, node.live.document.group_id
    if text is None or group_id is None:
        raise NotConfirmedError(
            "cluster-not-confirmed",
            f"no authority's signature says that cluster {node.cluster} is the group."
            " hint: `bondstone group confirm`",
        )
    try:
        certificate = birth_certificate_untrusted(base64.b64decode(text, validate=True))
        confirmed = certificate.verified(authority, group_id=bytes.fromhex(group_id))
        confirmed.require_cluster(node.cluster)
    except ValueError as exc:  # no base64, or no ASCII
        raise MalformedError("birth-certificate-malformed", "the birth certificate is not base64") from exc
    except AuthorityError as exc:
        raise AppraisalError(exc.reason, exc.message) from exc
    return confirmed


class GroupCaUnknownError(UndecidedError):
    """The node is genuine and accepted, and its group has no authority of its own, or has none yet."""


def require_group_ca(node: VerifiedNode) -> bytes:
    """Return the certificate of the group's authority, PEM, as a verified node's quote names it.

    Raises:
        GroupCaUnknownError: the quote names none.
        AppraisalError: ``group-ca-mismatch``: the node sent another certificate.
        MalformedError: ``group-ca-malformed``: it sent none that can be read.
    """
    if node.group_ca is None:
        raise GroupCaUnknownError(
            "group-ca-none",
            "the group has no authority of its own. hint: [ca] names in the group document; try again if the "
            "group was founded a moment ago",
        )
    try:
        certificate = base64.b64decode(node.live.document.group_ca or "", validate=True)
        if digest_of(certificate) != node.group_ca:
            raise AppraisalError(
                "group-ca-mismatch", "the node sent another authority's certificate than its quote names"
            )
        return pem_of(certificate)
    except ValueError as exc:  # no base64, or no certificate
        raise MalformedError("group-ca-malformed", "the authority's certificate cannot be read") from exc


def _in_no_cluster() -> "ClusterUnknownError":
    return ClusterUnknownError("cluster-none", "the node is in no cluster yet; try again later")


class ClusterUnknownError(UndecidedError):
    """The node is genuine and accepted, but is in no cluster yet. Which one it will join is not known."""


def require_cluster(node: VerifiedNode, cluster: str) -> None:
    """Require that a verified node's quote names this cluster, ``ID/GENERATION`` or ``ID``.

    Raises:
        ConfigError: ``cluster`` does not name a cluster.
        ClusterUnknownError: the node is in no cluster yet, so this cannot be decided.
        AppraisalError: ``cluster-mismatch``: the node is in another cluster.
    """
    try:
        wanted = Cluster.from_text_untrusted(cluster)
    except ValueError as exc:
        raise ConfigError(f"--cluster: {exc}") from exc
    if node.cluster is None:
        raise _in_no_cluster()
    if node.cluster != wanted:
        raise AppraisalError(
            "cluster-mismatch",
            f"the node is in cluster {node.cluster}, not in {wanted}",
            values={"expected": str(wanted), "actual": str(node.cluster)},
        )


def pin_cluster(
    node: VerifiedNode, confirmed: ConfirmedCluster | None, *, pins: Path | None, forget: bool
) -> None:
    """Keep which cluster of this group was verified, and refuse another one than before.

    Mock evidence proves nothing, and each start of a local cluster founds a new one. So a mock cluster is
    kept only in a file that the user names.

    Raises:
        AppraisalError: ``cluster-changed`` or ``birth-certificate-superseded``.
    """
    group_id = node.live.document.group_id
    if node.cluster is None or group_id is None or (pins is None and node.mock):
        return
    known = Pins.load(default_pins() if pins is None else pins)
    group = bytes.fromhex(group_id)
    if forget:
        known = known.without(group)
    try:
        seq = None if confirmed is None else confirmed.statement.seq
        known.with_verified(group, node.cluster, seq).save()
    except PinError as exc:
        hint = f"{exc.message}. hint: `bondstone verify --forget-pin`, if you know why"
        raise AppraisalError(exc.reason, hint) from exc
