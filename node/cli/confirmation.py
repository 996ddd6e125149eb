"""Decides what the authority signs: which cluster, and which earlier cluster it replaces. Without I/O."""

from collections.abc import Sequence

from attestation.tickets.protocol import Cluster
from node.authority import Authority, AuthorityError, PrivateKey, sign
from node.errors import ConfigError
from node.system.birth import (
    BirthCertificate,
    birth_certificate_untrusted,
    first_statement,
    next_statement,
)


def require_one_cluster(clusters: Sequence[tuple[str, Cluster | None]]) -> Cluster:
    """Return the one cluster that all these nodes attest to be in.

    Args:
        clusters: for each node, its URL and the cluster that its quote names.

    Raises:
        AuthorityError: ``cluster-none``: a node holds nothing of a cluster yet; ``clusters-differ``.
    """
    named: dict[Cluster, str] = {}
    for url, cluster in clusters:
        if cluster is None:
            raise AuthorityError("cluster-none", f"{url} is in no cluster yet; try again when it is ready")
        named.setdefault(cluster, url)
    if len(named) > 1:
        told = "; ".join(f"{url} is in {cluster}" for cluster, url in named.items())
        raise AuthorityError("clusters-differ", f"these nodes are in different clusters: {told}")
    (cluster,) = named
    return cluster


def certificate_to_sign(
    kept: BirthCertificate | None,
    served: BirthCertificate | None,
    *,
    group_id: bytes,
    cluster: Cluster,
    replace: str | None,
    now_s: int,
) -> BirthCertificate:
    """Return the certificate for ``cluster``, with the signatures that it already has.

    Args:
        kept: the certificate in the operator's own file; None if that does not exist.
        served: the newest certificate that the nodes return, verified; None if they have no certificate.
        group_id: 32 bytes.
        cluster: the cluster that the founders attest.
        replace: the id (hex) of the cluster that the operator gives up for this one; None: it gives up none.
        now_s: whole Unix seconds.

    Raises:
        AuthorityError: ``already-confirmed``: another cluster was confirmed, and ``replace`` is None or names
            a third one.
        ConfigError: ``replace`` without a certificate of the cluster that it names.
    """
    known = [item for item in (kept, served) if item is not None]
    if any(item.statement.group_id != group_id for item in known):
        raise ConfigError("the kept birth certificate is another group's; hint: --certificate FILE")
    newest = max(known, key=lambda item: item.statement.seq, default=None)
    if newest is None:
        if replace is not None:
            raise ConfigError(
                "--replace needs the birth certificate of the previous cluster; hint: --certificate FILE"
            )
        return BirthCertificate(statement=first_statement(group_id, cluster, now_s=now_s), signatures=())
    if newest.statement.cluster == cluster:
        return newest
    before = newest.statement.cluster
    if replace is None or replace.lower() != before.id.hex():
        raise AuthorityError(
            "already-confirmed",
            f"cluster {before} was confirmed for this group, and these nodes are in {cluster}."
            f" If {before.id.hex()} is lost for good: --replace {before.id.hex()}",
        )
    return BirthCertificate(statement=next_statement(newest.statement, cluster, now_s=now_s), signatures=())


def signed(
    certificate: BirthCertificate, authority: Authority, keys: Sequence[PrivateKey]
) -> BirthCertificate:
    """Return the certificate with the signatures of these keys.

    Raises:
        AuthorityError: ``authority-key-unknown``.
    """
    for key in keys:
        certificate = certificate.with_signature(
            authority.kid_of(key), sign(key, certificate.statement.digest)
        )
    return certificate


def is_complete(certificate: BirthCertificate, authority: Authority, group_id: bytes) -> bool:
    """Return whether enough keys have signed.

    Raises:
        AuthorityError: a signature does not verify. More signatures would not repair that.
    """
    try:
        certificate.verified(authority, group_id=group_id)
    except AuthorityError as exc:
        if exc.reason == "authority-threshold":
            return False
        raise
    return True


def verified_untrusted(data: bytes, authority: Authority, group_id: bytes) -> BirthCertificate:
    """Return the certificate that a node sent, if the authority has signed it.

    Raises:
        AuthorityError: the certificate is malformed, or the authority has not signed it.
    """
    certificate = birth_certificate_untrusted(data)
    certificate.verified(authority, group_id=group_id)
    return certificate
