"""The header field ``Bondstone-Cluster``: which cluster answers, and which one a caller means.

The same group can be founded a second time, with the same GroupId and the same measured code: after a total
loss, or by a host that starts the image elsewhere. Only the cluster distinguishes the two, so every answer
names it. If a request names a cluster, another cluster refuses it before it executes any part of it.
"""

import re
from typing import Final

from attestation.tickets.protocol import Cluster
from node.api.header_fields import CLUSTER
from node.api.problems import ProblemError
from node.api.service import Service

PATTERN: Final = "^[0-9a-f]{64}/[0-9]{1,10}$"
_FORM: Final = re.compile(PATTERN.encode("ascii").removesuffix(b"$") + rb"\Z")


class ClusterField:
    """The field of one node's answers."""

    __slots__ = ("_cluster", "_fields", "_service")

    def __init__(self, service: Service) -> None:
        self._service = service
        self._cluster: Cluster | None = None
        self._fields: tuple[tuple[bytes, bytes], ...] = ()

    def fields(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return the field; an empty tuple while the node holds nothing of a cluster."""
        cluster = self._service.cluster
        if cluster is not self._cluster and cluster != self._cluster:
            self._cluster = cluster
            self._fields = () if cluster is None else ((CLUSTER, str(cluster).encode("ascii")),)
        return self._fields

    def require(self, named: bytes, *, repeated: bool) -> None:
        """Require that this node is in the cluster that a request names.

        Raises:
            ProblemError: 412 ``cluster-changed``; 503 ``not-ready`` while the node is in none; 422 if the
                field is repeated or malformed.
        """
        if repeated or not _FORM.match(named):
            raise ProblemError("request-invalid", "Bondstone-Cluster: one value, of the form ID/GENERATION")
        fields = self.fields()
        if not fields:
            raise ProblemError(
                "not-ready",
                "this node is in no cluster yet",
                extensions={"reason": "no-cluster"},
            )
        if named != fields[0][1]:
            raise ProblemError(
                "cluster-changed",
                "this node is in another cluster of the group than the request names; nothing was executed",
            )
