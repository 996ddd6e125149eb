"""A node that waits for its group key takes the one that its group document names, whoever sends it, and no other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from node import service
from node.client import RefusedError, provision_group_key
from node.config import load_node
from node.daemon import running
from node.dev import DevCluster
from node.group.identity import GroupKey
from node.service import NodeService
from tests.support.cluster import free_port_block

PATIENCE_S = 60


@dataclass(frozen=True)
class Waiting:
    daemon: NodeService
    key: GroupKey
    send: Any


@asynccontextmanager
async def waiting(directory: Path) -> AsyncIterator[Waiting]:
    """A node of a group of one that was started without its key."""
    cluster = DevCluster(directory, nodes=1, api_port=free_port_block(1), report=lambda _event: None)
    cluster.prepare()
    (node,) = cluster.nodes
    text = node.config_file.read_text()
    assert 'key_file = "../group.key"' in text
    node.config_file.write_text(text.replace('key_file = "../group.key"', "await_key = true"))
    files = load_node(node.config_file)
    async with running(files.document, files.config, lambda _event: None) as daemon:
        certificate = x509.load_pem_x509_certificate(node.certificate_file.read_bytes())

        async def send(key: bytes) -> bytes:
            return await asyncio.to_thread(
                provision_group_key,
                f"https://{node.api}",
                certificate_der=certificate.public_bytes(Encoding.DER),
                group_key=key,
            )

        yield Waiting(daemon, GroupKey.from_hex((directory / "group.key").read_text()), send)


def test_the_key_that_the_document_names_is_taken_without_a_token(tmp_path):
    async def scenario() -> None:
        async with waiting(tmp_path) as node:
            assert node.daemon.readiness().reason == "waiting-for-key"
            group_id = await node.send(node.key.secret)

            assert group_id == load_node(tmp_path / "node-0" / "node.toml").document.group_id
            async with asyncio.timeout(PATIENCE_S):
                while not node.daemon.readiness().ready:
                    await asyncio.sleep(0.02)
            with pytest.raises(RefusedError) as again:
                await node.send(node.key.secret)
            assert again.value.reason == "not-waiting"

    uvloop.run(scenario())


async def offer_others(node: Waiting) -> list[str]:
    reasons = []
    for other in (GroupKey.generate().secret, node.key.public_digest, bytes(32)):
        try:
            await node.send(other)
        except RefusedError as exc:
            reasons.append(str(exc.reason))
    return reasons


def test_any_other_key_is_refused_and_the_node_goes_on_waiting(tmp_path):
    async def scenario() -> None:
        async with waiting(tmp_path) as node:
            assert await offer_others(node) == ["group-key-differs"] * 3
            assert node.daemon.readiness().reason == "waiting-for-key"
            assert await node.send(node.key.secret)

    uvloop.run(scenario())


def test_it_would_be_taken_if_it_were_not_compared(tmp_path, monkeypatch):
    from node.group import network

    monkeypatch.setattr(service, "require_key", lambda _document, key, *, source: key)
    monkeypatch.setattr(network, "require_key", lambda _document, key, *, source: key)

    async def scenario() -> None:
        async with waiting(tmp_path) as node:
            assert await offer_others(node) == ["not-waiting"] * 2  # the first one was taken
            assert node.daemon.readiness().reason != "waiting-for-key"

    uvloop.run(scenario())
