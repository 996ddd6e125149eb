"""Clients for the HTTP API: they know several nodes, and repeat a request only where that is safe.

    with Client(["https://127.0.0.1:8443"], token=token, ca=Path("ca.pem")) as client:
        client.put("greeting", "hello")
        client.get("greeting").value        # b"hello"

    async with AsyncClient(["https://127.0.0.1:8443"], token=token, ca=Path("ca.pem")) as client:
        await asyncio.gather(client.put("a", "1"), client.put("b", "2"))
        keys = [item.key async for item in client.list()]

Every write carries an Idempotency-Key made once for it, so it can be sent again, to any node, after a lost
connection: the group executes it once while it remembers the key (``session_ttl_ms``, 60 s by default). So
a client repeats a write for less than half of that TTL, even if ``deadline_s`` is longer. If the group has
another TTL, give it as ``session_ttl_s``.

A client pins the first cluster that answers (``client.cluster``): a cluster that was founded anew under the
same GroupId, and so is empty, raises ``ClusterChangedError`` and executes nothing. Give ``cluster=`` to keep
the pin over restarts of your program. If the group document names an authority,
``confirmed_by=ConfirmedBy.of_document(Path("group.toml"))`` replaces trust on first use: the authority has
signed which cluster is the group, and a client sends requests to that cluster only.
"""

from node.client.async_client import AsyncClient
from node.client.client import BondstoneClient, Client
from node.client.confirmed import ConfirmedBy
from node.client.errors import (
    AlreadyExecutedError,
    AnswerInvalidError,
    ClientError,
    ClusterChangedError,
    ClusterNotConfirmedError,
    NodeRefusedError,
    NotExecutedError,
    OutcomeUnknownError,
    RefusedError,
    UnreachableError,
)
from node.client.evidence import (
    LiveEvidence,
    fetch_evidence_unauthenticated,
    provision_group_key,
    submit_birth_certificate,
)
from node.client.items import Item
from node.client.trust import VerifiedBy

__all__ = [
    "AlreadyExecutedError",
    "AnswerInvalidError",
    "AsyncClient",
    "BondstoneClient",
    "Client",
    "ClientError",
    "ClusterChangedError",
    "ClusterNotConfirmedError",
    "ConfirmedBy",
    "Item",
    "LiveEvidence",
    "NodeRefusedError",
    "NotExecutedError",
    "OutcomeUnknownError",
    "RefusedError",
    "UnreachableError",
    "VerifiedBy",
    "fetch_evidence_unauthenticated",
    "provision_group_key",
    "submit_birth_certificate",
]
