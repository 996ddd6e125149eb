"""The bond port in the open: garbage, slow and greedy peers, old TLS, resumption, floods."""

import asyncio
import ssl
import tempfile
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attestation.encoding import canonical
from enclave.identity import Identity
from node.bonds.core.handshake import ConnectionRole, proof_of
from node.bonds.wire.frames import HELLO_BYTES_MAX, frame_of
from node.bonds.wire.messages import Hello, PeerEntry, Ping, Prove, Refuse
from node.peers import Incarnation, Preference
from node.places import Places
from tests.support.bonds import BUILD, GROUP, NETWORK, QUICK, SECRET, BondCluster, Node, RawPeer


def hello(**changes: Any) -> Hello:
    fields: dict[str, Any] = {
        "versions": (2,),
        "network_id": NETWORK,
        "group_id": GROUP,
        "nonce": b"n" * 32,
        "name": "raw",
        "build": BUILD,
    }
    return Hello(**(fields | changes))


def prove(peer: RawPeer, *, secret: bytes = SECRET) -> Prove:
    exporter = peer.tls.export(GROUP)
    me = peer.identity.peer_id
    entry = PeerEntry(peer=Incarnation("raw", me), preference=Preference.NORMAL, addresses=(), api_url=None)
    return Prove(
        proof=proof_of(secret, exporter=exporter, role=ConnectionRole.INITIATOR, peer_id=me), entry=entry
    )


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


async def still_bonds(cluster: BondCluster, node: Node) -> None:
    friend = await cluster.start("friend", node.address)
    await node.until_bonded(friend)


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 4096, b"\x16\x03\x01\xff\xff" + b"\xff" * 70_000],
    ids=["http", "zeros", "oversized-record"],
)
def test_garbage_is_closed_at_once_and_recorded(garbage: bytes) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node")
            raw = await RawPeer.connect(node.endpoint.port, tls=False)
            raw.send_raw(garbage)
            event = await node.until_event("bond-refused", reason="tls-failed")
            await raw.until_closed()
            await raw.close()

            assert event["phase"] == "tls"
            assert event["peer_id"] is None
            await still_bonds(cluster, node)

    run(scenario())


def test_a_peer_that_trickles_is_dropped_before_it_proved_the_key() -> None:
    """Slowloris: TLS is done, the frame never is. The clock does not start anew with each byte."""

    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node", settings=replace(QUICK, proof_timeout_ms=600))
            raw = await RawPeer.connect(node.endpoint.port)

            async def trickle() -> None:
                for byte in frame_of(hello())[:-1]:
                    raw.send_bytes(bytes([byte]))
                    await asyncio.sleep(0.02)

            task = asyncio.get_running_loop().create_task(trickle())
            event = await node.until_event("bond-refused", reason="handshake-timeout")
            task.cancel()
            assert event["code"] == 30408
            assert await raw.receive() == Refuse(code=30408, reason="handshake-timeout")
            await raw.until_closed()
            await raw.close()

    run(scenario())


def test_a_connection_that_sends_nothing_is_dropped() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node", settings=replace(QUICK, proof_timeout_ms=100))
            raw = await RawPeer.connect(node.endpoint.port, tls=False)
            event = await node.until_event("bond-refused", reason="handshake-timeout")
            await raw.until_closed()
            await raw.close()

            assert event["phase"] == "tls"

    run(scenario())


def test_a_frame_over_the_limit_is_refused_by_its_length_alone() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node")
            raw = await RawPeer.connect(node.endpoint.port)
            raw.send_bytes((HELLO_BYTES_MAX + 1).to_bytes(4, "big"))  # and not a byte of the body

            assert await raw.receive() == Refuse(code=30400, reason="frame-too-large")
            await node.until_event("bond-refused", reason="frame-too-large")
            await raw.close()

    run(scenario())


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"\x81\x18\x3f", b"\x80", b"\xa0", b"\x81\x01"], ids=lambda b: b.hex()
)
def test_a_malformed_message_is_refused(body: bytes) -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node")
            raw = await RawPeer.connect(node.endpoint.port)
            raw.send_bytes(len(body).to_bytes(4, "big") + body)

            assert await raw.receive() == Refuse(code=30400, reason="malformed-message")
            await raw.close()

    run(scenario())


def test_a_frame_of_a_million_empty_lists_is_refused_before_a_list_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A peer with the group key can send it before admission, and with ``derive_key`` that is any client."""
    built: list[int] = []
    decode = canonical._decode_untrusted

    def watch(data: bytes) -> Any:
        built.append(len(data))
        return decode(data)

    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node")
            raw = await RawPeer.connect(node.endpoint.port)
            raw.send(hello())
            assert isinstance(await raw.receive(), Hello)
            raw.send(prove(raw))
            assert isinstance(await raw.receive(), Prove)
            monkeypatch.setattr(canonical, "_decode_untrusted", watch)
            raw.send_bytes((2**20).to_bytes(4, "big") + b"\x82\x03\x9a" + (2**20 - 7).to_bytes(4, "big"))
            raw.send_bytes(b"\x80" * (2**20 - 7))
            event = await node.until_event("bond-refused", reason="malformed-message")
            await raw.close()

            assert "cbor-too-many-items" in event["message"]
            assert max(built, default=0) < 2**16

    run(scenario())


def test_a_bonds_message_before_admission_is_refused() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node")
            raw = await RawPeer.connect(node.endpoint.port)
            raw.send(Ping())

            assert await raw.receive() == Refuse(code=30400, reason="unexpected-message")
            await raw.close()

    run(scenario())


def test_a_proof_of_another_connection_is_worthless() -> None:
    """A man in the middle relays a member's proof: the exporter of his own connection differs."""

    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node")
            identity = Identity.generate("raw", datetime.now(UTC))
            one = await RawPeer.connect(node.endpoint.port, identity=identity)
            two = await RawPeer.connect(node.endpoint.port, identity=identity)
            two.send(hello())
            assert isinstance(await two.receive(), Hello)
            two.send(prove(one))

            assert await two.receive() == Refuse(code=30405, reason="invalid-proof")
            await one.close()
            await two.close()

    run(scenario())


def test_an_announcement_about_another_identity_is_refused() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node")
            raw = await RawPeer.connect(node.endpoint.port)
            raw.send(hello())
            assert isinstance(await raw.receive(), Hello)
            mine = prove(raw)
            raw.send(replace(mine, entry=replace(mine.entry, peer=Incarnation("raw", b"v" * 32))))

            assert await raw.receive() == Refuse(code=30400, reason="entry-mismatch")
            await raw.close()

    run(scenario())


def test_no_common_version_is_refused() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node")
            raw = await RawPeer.connect(node.endpoint.port)
            raw.send(hello(versions=(1, 3)))

            assert await raw.receive() == Refuse(code=30400, reason="version-mismatch")
            await raw.close()

    run(scenario())


def test_a_refused_peer_that_hangs_on_is_cut_off() -> None:
    """It has a moment to read why; what it sends meanwhile is thrown away."""

    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node", settings=replace(QUICK, linger_ms=100))
            raw = await RawPeer.connect(node.endpoint.port)
            raw.send(Ping())
            assert await raw.receive() == Refuse(code=30400, reason="unexpected-message")
            async with asyncio.timeout(5):
                while not raw.writer.is_closing():
                    raw.send_raw(b"still here")
                    await asyncio.sleep(0.01)
            await raw.close()

            assert not node.endpoint._connections

    run(scenario())


def test_handshakes_are_capped_per_address() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            settings = replace(QUICK, handshakes_per_address_max=3)
            node = await cluster.start("node", settings=settings)
            held = [await RawPeer.connect(node.endpoint.port) for _ in range(4)]
            await held[0].until_closed()  # it has waited longest
            await node.until_event("bond-refused", reason="too-many-handshakes")
            assert not any(raw.reader.at_eof() for raw in held[1:])
            # The next one gets in, too.
            await still_bonds(cluster, node)
            for raw in held:
                await raw.close()

    run(scenario())


ATTACKERS = tuple(f"127.0.0.{number}" for number in range(2, 6))
BESIEGED = replace(
    QUICK,
    handshakes_max=16,
    handshakes_per_address_max=4,
    proof_timeout_ms=60_000,
    handshake_timeout_ms=60_000,
)


STRANGERS_MAX = 14  # an eighth of the places is for the known


class Siege:
    """Silent connections from a few addresses, opened again as often as they are closed."""

    def __init__(self, node: Node, each: int) -> None:
        self._node, self._port = node, node.endpoint.port
        self._tasks = [
            asyncio.get_running_loop().create_task(self._hold(address))
            for address in ATTACKERS
            for _ in range(each)
        ]

    async def _hold(self, address: str) -> None:
        while True:
            await asyncio.sleep(0.01)  # they share the loop with those whom they besiege
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self._port, local_addr=(address, 0)
                )
            except OSError:
                continue
            try:
                await reader.read()
            except ConnectionError:
                continue
            finally:
                writer.transport.abort()

    async def begun(self) -> None:
        """Wait until strangers have all the places that they can have."""
        async with asyncio.timeout(10):
            while self._node.endpoint.usages()[0].strangers < STRANGERS_MAX:
                await asyncio.sleep(0.005)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def test_four_addresses_that_send_nothing_do_not_keep_a_genuine_member_out() -> None:
    """They kept a restarted node out for as long as they liked: the newest lost."""

    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node", settings=BESIEGED)
            siege = Siege(node, each=4)
            await siege.begun()
            friend = await cluster.start("friend", node.address)
            await node.until_bonded(friend)
            await friend.endpoint.close()
            again = await cluster.start("friend-again", node.address)
            await node.until_bonded(again)
            await siege.end()

            assert node.endpoint.usages()[0].sent_away > 0

    run(scenario())


def test_they_would_if_the_newest_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    enter = Places.enter

    def newest_loses(places: Any, item: Any, share: str, *, known: bool) -> Any:
        return item if len(places) >= STRANGERS_MAX else enter(places, item, share, known=known)

    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node", settings=BESIEGED)
            siege = Siege(node, each=4)
            await siege.begun()
            await cluster.start("friend", node.address)
            async with asyncio.timeout(10):
                while not any(
                    event["address"].startswith("127.0.0.1:")
                    for event in node.events("bond-refused", reason="too-many-handshakes")
                ):
                    await asyncio.sleep(0.01)
            await siege.end()

            assert not node.peers()

    monkeypatch.setattr(Places, "enter", newest_loses)
    run(scenario())


def test_strangers_of_many_addresses_never_crowd_out_a_known_address() -> None:
    """More addresses than places: of the unknown ones only the newest stay."""

    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node", settings=BESIEGED)
            friend = await cluster.start("friend", node.address)
            await node.until_bonded(friend)
            known = await RawPeer.connect(node.endpoint.port)  # from where the friend is
            strangers = [
                await asyncio.open_connection(
                    "127.0.0.1", node.endpoint.port, local_addr=(f"127.0.1.{number}", 0)
                )
                for number in range(1, 30)
            ]
            await strangers[0][0].read()
            known.send(hello())

            assert isinstance(await known.receive(), Hello)
            assert node.endpoint.usages()[0].known == 1
            for _, writer in strangers:
                writer.transport.abort()
            await known.close()

    run(scenario())


def test_a_scanner_cannot_fill_the_audit_log() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node", settings=replace(QUICK, handshakes_per_address_max=64))
            for _ in range(80):
                raw = await RawPeer.connect(node.endpoint.port, tls=False)
                raw.send_raw(b"garbage, and no TLS record at all")
                await raw.until_closed()
                await raw.close()
            refused = len(node.events("bond-refused"))
            await node.endpoint.close()

            (summary,) = node.events("refusals-suppressed")
            assert refused == 50
            assert summary["counts"] == {"tls-failed": 30}
            assert summary["total"] == 30

    run(scenario())


# ---- TLS --------------------------------------------------------------------------
def client_context(identity: Identity, **versions: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["bondstone/bond/1"])
    for name, value in versions.items():
        setattr(context, name, value)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "identity.pem"
        path.write_bytes(identity.private_key_pem() + identity.certificate_pem())
        context.load_cert_chain(path)
    return context


async def tls_connect(port: int, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, Any]:
    return await asyncio.open_connection("127.0.0.1", port, ssl=context)


def test_tls_1_2_is_refused() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node")
            context = client_context(
                Identity.generate("old", datetime.now(UTC)), maximum_version=ssl.TLSVersion.TLSv1_2
            )
            with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                await tls_connect(node.endpoint.port, context)
            event = await node.until_event("bond-refused", reason="tls-failed")

            assert "unsupported protocol" in event["message"]

    run(scenario())


def test_a_client_without_a_certificate_is_refused() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["bondstone/bond/1"])
            _, writer = await tls_connect(node.endpoint.port, context)
            event = await node.until_event("bond-refused", reason="tls-failed")
            writer.transport.abort()

            assert "did not return a certificate" in event["message"]

    run(scenario())


def test_another_protocol_over_tls_is_refused() -> None:
    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node")
            context = client_context(Identity.generate("web", datetime.now(UTC)))
            context.set_alpn_protocols(["h2", "http/1.1"])
            _, writer = await tls_connect(node.endpoint.port, context)
            await node.until_event("bond-refused", reason="tls-alpn")
            writer.transport.abort()

    run(scenario())


def test_a_session_is_never_resumed() -> None:
    """A resumed session would show no certificate: no key would be proved anew."""

    async def handshake(port: int, context: ssl.SSLContext, session: Any) -> tuple[Any, bool]:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, session=session)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        # Until the first message of the bond protocol: session tickets would come before it.
        sent = False
        while True:
            try:
                tls.do_handshake()
                if not sent:
                    tls.write(frame_of(hello(group_id=b"g" * 32)))
                    sent = True
                tls.read(65536)
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65536))
        writer.transport.abort()
        return tls.session, tls.session_reused

    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node")
            context = client_context(
                Identity.generate("again", datetime.now(UTC)), minimum_version=ssl.TLSVersion.TLSv1_3
            )
            session, _ = await handshake(node.endpoint.port, context, None)
            _, reused = await handshake(node.endpoint.port, context, session)

            assert not reused

    run(scenario())


def self_signed(key: Any, digest: Any, *, issuer: str | None = None, signer: Any = None) -> bytes:
    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(named("x"))
        .issuer_name(named(issuer or "x"))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now.replace(year=now.year + 1))
        .sign(signer or key, digest)
    )
    return certificate.public_bytes(Encoding.DER)


@pytest.mark.parametrize("kind", ["sha384", "other-issuer", "other-signer"])
def test_only_a_self_signed_p256_certificate_is_taken(kind: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = {
        "sha384": lambda: self_signed(key, SHA384()),
        "other-issuer": lambda: self_signed(key, SHA256(), issuer="y"),
        "other-signer": lambda: self_signed(key, SHA256(), signer=ec.generate_private_key(ec.SECP256R1())),
    }[kind]()
    good = Identity.generate("raw", datetime.now(UTC))
    identity = replace(good, private_key=key, certificate_der=certificate)

    async def scenario() -> None:
        async with BondCluster() as cluster:
            node = await cluster.start("node")
            raw = await RawPeer.connect(node.endpoint.port, identity=identity)
            event = await node.until_event("bond-refused", reason="peer-certificate")

            assert await raw.receive() == Refuse(code=30400, reason="peer-certificate")
            assert event["peer_id"] is None
            await raw.close()

    run(scenario())
