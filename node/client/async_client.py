"""The client for programs with an event loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx

from node.api import schemas
from node.api.freshness import boot_time_s
from node.client.calls import Calls
from node.client.channel import Body
from node.client.confirmed import ConfirmedBy
from node.client.deadline import OVER
from node.client.exchange import CLUSTER_FIELD, Answered, Call, NoAnswer, Pause, Reply, SendRequest, Step
from node.client.items import Item
from node.client.options import (
    ATTEMPT_TIMEOUT_S_DEFAULT,
    CONNECT_TIMEOUT_S,
    DEADLINE_S_DEFAULT,
    SESSION_TTL_S_DEFAULT,
    new_exchange,
)
from node.client.settings import DEV_DIRECTORY, Destination, settings_of, settings_of_dev
from node.client.trust import NOT_TRUSTED, Contexts, VerifiedBy, trust_of

T = TypeVar("T")
CONNECTIONS_MAX_DEFAULT: Final = 64
KEPT_S: Final = 5.0  # an idle connection: well before the node closes it (10 s)
_LEAST_S: Final = 0.001
_SHARE_OF_CONNECT: Final = 0.4  # of what is left: for TCP, for TLS


class AsyncClient:
    """``Client`` for ``asyncio``: the same calls with the same meaning, many of them at a time.

    ``Client`` documents the arguments and the calls. A cancelled call leaves what it sent with the nodes: a
    write may still be executed.

    Args:
        connections_max: how many connections are open at most; a call waits for one within its deadline.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        token: str | None,
        ca: Path | None = None,
        verified_by: VerifiedBy | None = None,
        client_certificate: tuple[Path, Path] | None = None,
        deadline_s: float = DEADLINE_S_DEFAULT,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S_DEFAULT,
        cluster: str | None = None,
        confirmed_by: ConfirmedBy | None = None,
        session_ttl_s: float = SESSION_TTL_S_DEFAULT,
        connections_max: int = CONNECTIONS_MAX_DEFAULT,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = boot_time_s,
    ) -> None:
        self._exchange = new_exchange(
            urls,
            token=token,
            cluster=cluster,
            deadline_s=deadline_s,
            session_ttl_s=session_ttl_s,
            clock=clock,
        )
        self._calls = Calls(self._exchange, confirmed_by)
        self._confirming = asyncio.Lock()
        self._trust = trust_of(ca, verified_by)
        self._attempt_timeout_s = attempt_timeout_s
        self._connections_max = connections_max
        self._sleep = sleep
        self._clock = clock
        self._contexts = Contexts(self._trust, client_certificate)
        self._verifying = asyncio.Lock()
        self._channel: Connections | None = None

    @classmethod
    def from_env(cls, **more: Any) -> Self:
        """Return a client for the cluster that ``BONDSTONE_URL``, ``_TOKEN``, ``_CA`` and ``_CLUSTER`` name.

        Args:
            more: further arguments of the class.

        Raises:
            ConfigError: something is missing or malformed.
        """
        return cls._of(settings_of(), more)

    @classmethod
    def from_dev(cls, directory: Path = DEV_DIRECTORY, **more: Any) -> Self:
        """Return a client for the local cluster that `bondstone dev` runs with this directory.

        Raises:
            ConfigError: there is none, or its files are malformed.
        """
        return cls._of(settings_of_dev(directory), more)

    @classmethod
    def _of(cls, target: Destination, more: dict[str, Any]) -> Self:
        ca = None if "verified_by" in more else target.ca
        return cls(target.urls, **{"token": target.token, "ca": ca, "cluster": target.cluster} | more)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def cluster(self) -> str | None:
        """The cluster that this client knows, as ``ID/GENERATION``; None before its first answer."""
        return self._exchange.cluster

    async def aclose(self) -> None:
        """Close the connections."""
        if self._channel is not None:
            await self._channel.http.aclose()

    # ---- any state machine ------------------------------------------------------
    async def execute(self, command: Any, *, idempotency_key: str | None = None) -> schemas.CommandResult:
        return await self._run(self._calls.execute(command, idempotency_key))

    async def feed(self, command: Any, *, idempotency_key: str | None = None) -> schemas.Accepted:
        return await self._run(self._calls.feed(command, idempotency_key))

    async def execute_many(
        self, commands: Sequence[Any], *, idempotency_key: str | None = None
    ) -> schemas.CommandResults:
        return await self._run(self._calls.execute_many(commands, idempotency_key))

    async def query(
        self,
        query: Any,
        *,
        consistency: str = "strong",
        min_at: schemas.At | None = None,
        max_age_ms: int | None = None,
    ) -> schemas.QueryResult:
        return await self._run(self._calls.query(query, consistency, min_at, max_age_ms))

    # ---- the key-value machine ----------------------------------------------------
    async def put(self, key: str | bytes, value: str | bytes) -> int:
        return await self._run(self._calls.put(key, value))

    async def get(self, key: str | bytes, *, consistency: str = "strong") -> Item | None:
        return await self._run(self._calls.get(key, consistency))

    async def delete(self, key: str | bytes) -> bool:
        return await self._run(self._calls.delete(key))

    async def compare_and_swap(
        self, key: str | bytes, *, expect: str | bytes | None, value: str | bytes | None
    ) -> bool:
        return await self._run(self._calls.compare_and_swap(key, expect, value))

    async def list(self, prefix: str | bytes = b"", *, consistency: str = "strong") -> AsyncIterator[Item]:
        after: bytes | None = None
        more = True
        while more:
            items, more = await self._run(self._calls.page(prefix, after, consistency))
            for item in items:
                yield item
            after = items[-1].key if items else after

    # ---- the group, attestation, audit -----------------------------------------------
    async def ready(self) -> schemas.Ready:
        return await self._run(self._calls.ready())

    async def group(self) -> schemas.Group:
        return await self._run(self._calls.group())

    async def members(self) -> schemas.Members:
        return await self._run(self._calls.members())

    async def safe_to_stop(self, member: str) -> schemas.SafeToStop:
        return await self._run(self._calls.safe_to_stop(member))

    async def transfer_leadership(self, target: str | None = None) -> schemas.Transferred:
        return await self._run(self._calls.transfer_leadership(target))

    async def remove_member(self, member: str) -> schemas.Removed:
        return await self._run(self._calls.remove_member(member))

    async def survivor(self) -> schemas.Survivor:
        return await self._run(self._calls.survivor())

    async def recover(self, log_end: schemas.LogEnd, approval: bytes = b"") -> schemas.Recovered:
        return await self._run(self._calls.recover(log_end, approval))

    async def bonds(self) -> schemas.Bonds:
        return await self._run(self._calls.bonds())

    async def peers(self) -> schemas.PeersEvidence:
        return await self._run(self._calls.peers())

    async def audit_events(self, *, after: int = 0, limit: int = 100) -> Sequence[Mapping[str, Any]]:
        return await self._run(self._calls.audit_events(after, limit))

    async def audit_head(self) -> dict[str, Any]:
        return await self._run(self._calls.audit_head())

    # ---- who may call (role ``admin``) ---------------------------------------------------
    async def access(self) -> schemas.AccessListing:
        return await self._run(self._calls.access())

    async def grant(
        self,
        name: str,
        roles: Sequence[str],
        *,
        token_sha256: str | None = None,
        certificate_pem: str | None = None,
        password: str | None = None,
        prefixes: Sequence[str] = (),
        expires_at: datetime | None = None,
        idempotency_key: str | None = None,
    ) -> schemas.AccessChanged:
        call = self._calls.grant(
            name,
            roles,
            token_sha256=token_sha256,
            certificate_pem=certificate_pem,
            password=password,
            prefixes=prefixes,
            expires_at=expires_at,
            key=idempotency_key,
        )
        return await self._run(call)

    async def revoke(
        self, name: str, *, force: bool = False, idempotency_key: str | None = None
    ) -> schemas.AccessChanged:
        return await self._run(self._calls.revoke(name, force=force, key=idempotency_key))

    # ---- carrying it out ------------------------------------------------------------
    async def _run(self, call: Call[T]) -> T:
        if self._calls.unconfirmed:
            async with self._confirming:
                await self._carry_out(self._calls.confirm())  # nothing, if another call has done it meanwhile
        return await self._carry_out(call)

    async def _carry_out(self, call: Call[T]) -> T:
        reply: Reply = None
        try:
            while True:
                reply = await self._step(call.send(reply))
        except StopIteration as end:
            answer: T = end.value
            return answer
        finally:
            call.close()

    async def _step(self, step: Step) -> Reply:
        match step:
            case Pause(seconds):
                await self._sleep(seconds)
                return None
            case SendRequest():
                return await self._send(step)

    async def _send(self, send: SendRequest) -> Answered | NoAnswer:
        try:
            channel = await self._channel_for(send)
        except NOT_TRUSTED as exc:
            return NoAnswer(exc, sent=False)
        left_s = self._left_s(send)
        channel.users += 1
        try:
            async with asyncio.timeout(left_s):
                return await channel.answer(send, self._limits(left_s))
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            await asyncio.to_thread(self._trust.failed, send.base)
            return NoAnswer(exc, sent=False)
        except httpx.PoolTimeout as exc:
            return NoAnswer(exc, sent=False)
        except TimeoutError:
            return NoAnswer(httpx.ReadTimeout(OVER), sent=True)
        except httpx.TransportError as exc:
            return NoAnswer(exc, sent=True)
        finally:
            channel.users -= 1
            if channel.users == 0 and channel is not self._channel:
                await channel.http.aclose()

    def _left_s(self, send: SendRequest) -> float:
        return max(send.end_at - self._clock(), _LEAST_S)

    async def _channel_for(self, send: SendRequest) -> "Connections":
        """Return connections that trust this node, or raise one of ``NOT_TRUSTED``."""
        trust, cluster = self._trust, self._exchange.cluster
        if trust.is_fresh(send.base):
            pem = trust.pem_for(send.base, cluster, 0)
        else:
            async with self._verifying:  # each node once, whichever calls wait for it
                pem = await asyncio.to_thread(trust.pem_for, send.base, cluster, self._left_s(send))
        before = self._channel
        if before is not None and pem == before.pem:
            return before
        channel = self._channel = self._new_channel(pem)
        if before is not None and before.users == 0:  # otherwise its last user closes it
            await before.http.aclose()
        return channel

    def _limits(self, left_s: float) -> httpx.Timeout:
        """Return limits for the parts of an attempt.

        Making a connection (TCP, then TLS) ends before the whole attempt does: after an end of the whole it
        would be open whether the node received the request.
        """
        connect_s = min(CONNECT_TIMEOUT_S, left_s * _SHARE_OF_CONNECT)
        return httpx.Timeout(min(self._attempt_timeout_s, left_s), connect=connect_s, pool=connect_s)

    def _new_channel(self, pem: bytes) -> "Connections":
        limits = httpx.Limits(
            max_connections=self._connections_max,
            max_keepalive_connections=self._connections_max,
            keepalive_expiry=KEPT_S,
        )
        http = httpx.AsyncClient(verify=self._contexts.of(pem), limits=limits, trust_env=False)
        return Connections(http, pem)


class Connections:
    """Connections that trust the same certificates, and how many attempts use them now."""

    def __init__(self, http: httpx.AsyncClient, pem: bytes) -> None:
        self.http = http
        self.pem = pem
        self.users = 0

    async def answer(self, send: SendRequest, limits: httpx.Timeout) -> Answered:
        async with self.http.stream(
            send.method, send.url, headers=send.headers, content=send.content, timeout=limits
        ) as response:
            body = Body()
            async for chunk in response.aiter_bytes():
                body.add(chunk)
            return Answered(response.status_code, response.headers.get(CLUSTER_FIELD), body.whole)
