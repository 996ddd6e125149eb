"""Which certificates a client's connections trust: those of a file, or those of nodes that it verified."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import AttestationError
from attestation.tickets.protocol import Cluster
from node.client.channel import client_tls_context, load_client_certificate, read_ca
from node.client.errors import (
    AnswerInvalidError,
    ClusterChangedError,
    NodeRefusedError,
    RefusedError,
    UnreachableError,
)
from node.client.evidence import TIMEOUT_S
from node.client.verified_node import (
    Appraiser,
    ClusterUnknownError,
    VerifiedNode,
    appraiser_of,
    pin_cluster,
    require_confirmed,
    verify_node,
)
from node.errors import ConfigError

Verify = Callable[..., VerifiedNode]
# The node was not sent the request, because its evidence is not good enough, or could not be had.
NOT_TRUSTED: Final = (NodeRefusedError, UnreachableError, RefusedError, AnswerInvalidError)


class NodeTrust(Protocol):
    """Blocks while it reads files, or verifies a node over the network."""

    @property
    def names_checked(self) -> bool:
        """Whether a certificate must carry the host's name, too."""
        ...

    def pem_for(self, url: str, cluster: str | None, timeout_s: float) -> bytes:
        """Return the certificates to trust, PEM, before a request to the node at ``url``.

        Args:
            url: of the node's API.
            cluster: the cluster that must answer, ``ID/GENERATION``; None: any.
            timeout_s: how long that may take.

        Raises:
            ClientError: the node at ``url`` is not to be trusted, or it could not be decided.
            ConfigError: a file cannot be read.
        """
        ...

    def failed(self, url: str) -> None:
        """No connection to this node could be made: it may have another certificate now."""
        ...

    def is_fresh(self, url: str) -> bool:
        """Return whether ``pem_for`` would answer at once, and as it did before."""
        ...


class CaFile:
    """The certificates in a file. It is read again when a connection fails."""

    names_checked = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pem = read_ca(path)
        client_tls_context(self._pem)  # it has a certificate, otherwise this client could do nothing

    def pem_for(self, url: str, cluster: str | None, timeout_s: float) -> bytes:  # noqa: ARG002
        return self._pem

    def failed(self, url: str) -> None:  # noqa: ARG002
        self._pem = read_ca(self._path)

    def is_fresh(self, url: str) -> bool:  # noqa: ARG002
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedBy:
    """What a client requires of a node's evidence before it sends the node a request.

    The files are those of `bondstone verify`. With a group document whose ``[authority]`` signs, the birth
    certificate is required too.

    Attributes:
        group_document: gives policy, root, GroupId and MRCONFIGID.
        policy: appraisal policy, TOML; None: the document's.
        trust_root: ``intel``, or the file of another root; None: the document's, or Intel's.
        collateral: DCAP collateral; None: what the node staples to its evidence.
        pins: file that keeps the cluster that was verified; None: the user's own, as `bondstone verify` has
            it. Mock clusters are kept only in a file that is named here.
    """

    group_document: Path | None = None
    policy: Path | None = None
    trust_root: str | None = None
    collateral: Path | None = None
    pins: Path | None = None


class VerifiedNodes:
    """The certificates of nodes whose evidence was verified over a connection with the same key.

    A node is verified before its first request, and again after its connection failed, or once its verdict
    has expired.
    """

    names_checked = False  # the quote names the key; whoever holds it is the node

    def __init__(
        self,
        required: VerifiedBy,
        *,
        verify: Verify = verify_node,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._appraiser: Appraiser = appraiser_of(
            group_document=required.group_document,
            policy=required.policy,
            trust_root=required.trust_root,
            group_id=None,
        )
        self._required = required
        self._verify = verify
        self._now = now
        self._nodes: dict[str, VerifiedNode] = {}

    def is_fresh(self, url: str) -> bool:
        node = self._nodes.get(url)
        return node is not None and (node.expiration.at is None or self._now() < node.expiration.at)

    def failed(self, url: str) -> None:
        self._nodes.pop(url, None)

    def pem_for(self, url: str, cluster: str | None, timeout_s: float) -> bytes:
        if not self.is_fresh(url):
            self._nodes.pop(url, None)
            self._nodes[url] = self._verified(url, cluster, min(timeout_s, TIMEOUT_S))
        return b"".join(sorted({_pem_of(node) for node in self._nodes.values()}))

    def _verified(self, url: str, cluster: str | None, timeout_s: float) -> VerifiedNode:
        required = self._required
        try:
            node = self._verify(
                url, appraiser=self._appraiser, collateral=required.collateral, timeout_s=timeout_s
            )
            _require_cluster(node.cluster, cluster)
            authority = self._appraiser.authority
            confirmed = None if authority is None else require_confirmed(node, authority)
            pin_cluster(node, confirmed, pins=required.pins, forget=False)
        except AttestationError as exc:
            raise NodeRefusedError(url, exc.reason, exc.message) from exc
        return node


class Contexts:
    """Makes the TLS contexts of a client.

    Args:
        trust: decides which certificates.
        client_certificate: PEM files of certificate and key, or None.

    Raises:
        ConfigError: these files are not a certificate and its key.
    """

    def __init__(self, trust: NodeTrust, client_certificate: tuple[Path, Path] | None) -> None:
        self._names_checked = trust.names_checked
        self._client_certificate = client_certificate
        if client_certificate is not None:
            load_client_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), *client_certificate)

    def of(self, pem: bytes) -> ssl.SSLContext:
        """Return a context that trusts exactly the certificates in ``pem``."""
        context = client_tls_context(pem)
        context.check_hostname = self._names_checked
        if self._client_certificate is not None:
            load_client_certificate(context, *self._client_certificate)
        return context


def trust_of(ca: Path | None, verified_by: VerifiedBy | None) -> NodeTrust:
    """Return what a client with these options trusts.

    Raises:
        ConfigError: both or none are given, or a file cannot be read.
    """
    if (ca is None) == (verified_by is None):
        raise ConfigError("give either `ca`, the nodes' certificates, or `verified_by`, what they must prove")
    if verified_by is not None:
        return VerifiedNodes(verified_by)
    assert ca is not None
    return CaFile(ca)


def _require_cluster(quoted: Cluster | None, cluster: str | None) -> None:
    if cluster is None:
        return  # any cluster will do
    if quoted is None:
        raise ClusterUnknownError("cluster-none", "the node is in no cluster yet; try again later")
    if str(quoted) != cluster:
        raise ClusterChangedError(known=cluster, answered=str(quoted), executed=False)


def _pem_of(node: VerifiedNode) -> bytes:
    return x509.load_der_x509_certificate(node.live.certificate_der).public_bytes(Encoding.PEM)
