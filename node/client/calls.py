"""What a client can ask, each as a conversation without I/O; ``Client`` documents them."""

import base64
import builtins
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import msgspec

from node.api import schemas
from node.client.confirmed import ConfirmedBy
from node.client.errors import ClusterChangedError
from node.client.exchange import Call, Exchange
from node.client.items import Item, field_of, item_of, member_of

T = TypeVar("T")
Key = str | bytes
_SOME: Final = 18  # random bytes of an Idempotency-Key


class Calls:
    """The calls of one client.

    Args:
        exchange: with the nodes.
        confirmed_by: the authority that must have signed which cluster is the group; see ``confirm``.
    """

    def __init__(self, exchange: Exchange, confirmed_by: ConfirmedBy | None) -> None:
        self._exchange = exchange
        self._call = exchange.call
        self._unconfirmed = confirmed_by

    @property
    def unconfirmed(self) -> bool:
        """Whether ``confirm`` must come before any other call."""
        return self._unconfirmed is not None

    def confirm(self) -> Call[None]:
        """Ask for the birth certificate, and pin the cluster that it names.

        Raises:
            ClusterNotConfirmedError: there is no valid birth certificate.
            ClusterChangedError: it confirms another cluster than the one that the caller named.
        """
        required, exchange = self._unconfirmed, self._exchange
        if required is None:
            return
        named = exchange.cluster
        try:
            answer = yield from self._call("GET", "/v1/birth-certificate", schemas.BirthCertificate)
            confirmed = str(required.cluster_of_untrusted(answer.birth_certificate))
            if exchange.cluster != confirmed:
                raise ClusterChangedError(known=confirmed, answered=exchange.cluster, executed=False)
        except BaseException:
            exchange.cluster = named
            raise
        self._unconfirmed = None

    # ---- any state machine ------------------------------------------------------
    def execute(self, command: Any, key: str | None) -> Call[schemas.CommandResult]:
        return self._write({"command": command}, key, schemas.CommandResult)

    def feed(self, command: Any, key: str | None) -> Call[schemas.Accepted]:
        return self._write({"command": command, "wait": "accepted"}, key, schemas.Accepted)

    def execute_many(self, commands: Sequence[Any], key: str | None) -> Call[schemas.CommandResults]:
        return self._write({"commands": list(commands)}, key, schemas.CommandResults)

    def query(
        self, query: Any, consistency: str, min_at: schemas.At | None = None, max_age_ms: int | None = None
    ) -> Call[schemas.QueryResult]:
        asked: dict[str, Any] = {"query": query, "consistency": consistency}
        if min_at is not None:
            asked["min_at"] = {"term": min_at.term, "index": min_at.index}
        if max_age_ms is not None:
            asked["max_age_ms"] = max_age_ms
        return self._call("POST", "/v1/queries", schemas.QueryResult, body=asked)

    # ---- the key-value machine ----------------------------------------------------
    def put(self, key: Key, value: Key) -> Call[int]:
        command = {"op": "put", **field_of("key", key), **field_of("value", value)}
        answer = yield from self.execute(command, None)
        return int(member_of(answer.result, "revision"))

    def get(self, key: Key, consistency: str) -> Call[Item | None]:
        answer = yield from self.query({"op": "get", **field_of("key", key)}, consistency)
        item = member_of(answer.result, "item")
        return None if item is None else item_of(item)

    def delete(self, key: Key) -> Call[bool]:
        answer = yield from self.execute({"op": "delete", **field_of("key", key)}, None)
        return bool(member_of(answer.result, "deleted"))

    def compare_and_swap(self, key: Key, expect: Key | None, value: Key | None) -> Call[bool]:
        command = {
            "op": "cas",
            **field_of("key", key),
            **field_of("expect", expect),
            **field_of("value", value),
        }
        answer = yield from self.execute(command, None)
        return bool(member_of(answer.result, "swapped"))

    def page(
        self, prefix: Key, after: bytes | None, consistency: str
    ) -> Call[tuple[builtins.list[Item], bool]]:
        """Return one page of the keys with the prefix, and whether there are more behind it."""
        query = {"op": "list", **field_of("prefix", prefix)}
        if after is not None:
            query |= field_of("after", after)
        answer = yield from self.query(query, consistency)
        items = [item_of(item) for item in member_of(answer.result, "items")]
        return items, bool(member_of(answer.result, "more")) and bool(items)

    # ---- the group, attestation, audit -----------------------------------------------
    def ready(self) -> Call[schemas.Ready]:
        return self._call("GET", "/readyz", schemas.Ready)

    def group(self) -> Call[schemas.Group]:
        return self._call("GET", "/v1/group", schemas.Group)

    def members(self) -> Call[schemas.Members]:
        return self._call("GET", "/v1/members", schemas.Members)

    def safe_to_stop(self, member: str) -> Call[schemas.SafeToStop]:
        path = f"/v1/safe-to-stop?{urlencode({'member': member})}"
        answer = yield from self._call("GET", path, schemas.SafeToStop)
        for _ in self._exchange.urls[1:]:
            if answer.verdict != "unknown":
                break
            self._exchange.turn()
            answer = yield from self._call("GET", path, schemas.SafeToStop)
        return answer

    def transfer_leadership(self, target: str | None) -> Call[schemas.Transferred]:
        group = yield from self.group()
        named = (("target", target), ("leader", group.leader))
        body = {key: value for key, value in named if value is not None}
        return (yield from self._call("POST", "/v1/members/transfer", schemas.Transferred, body=body))

    def remove_member(self, member: str) -> Call[schemas.Removed]:
        members = yield from self.members()
        named = [one.peer_id for one in members.members if one.name == member]
        which = named[0] if len(named) == 1 else member
        path = f"/v1/members?{urlencode({'member': which})}"
        return (yield from self._call("DELETE", path, schemas.Removed))

    def survivor(self) -> Call[schemas.Survivor]:
        return self._call("GET", "/v1/recovery", schemas.Survivor)

    def recover(self, log_end: schemas.LogEnd, approval: bytes) -> Call[schemas.Recovered]:
        body: dict[str, Any] = {"log_end": msgspec.to_builtins(log_end)}
        if approval:
            body["approval"] = base64.b64encode(approval).decode()
        known, self._exchange.cluster = self._exchange.cluster, None
        try:
            return (yield from self._call("POST", "/v1/recovery", schemas.Recovered, body=body))
        except BaseException:
            self._exchange.cluster = known
            raise

    def bonds(self) -> Call[schemas.Bonds]:
        return self._call("GET", "/v1/bonds", schemas.Bonds)

    def peers(self) -> Call[schemas.PeersEvidence]:
        return self._call("GET", "/v1/attestation/peers", schemas.PeersEvidence)

    def audit_events(self, after: int, limit: int) -> Call[Sequence[Mapping[str, Any]]]:
        path = f"/v1/audit/events?after={after}&limit={limit}"
        answer = yield from self._call("GET", path, schemas.AuditEvents)
        return answer.events

    def audit_head(self) -> Call[dict[str, Any]]:
        return self._call("GET", "/v1/audit/head", dict[str, Any])

    # ---- who may call ------------------------------------------------------------------
    def access(self) -> Call[schemas.AccessListing]:
        return self._call("GET", "/v1/access", schemas.AccessListing)

    def grant(
        self,
        name: str,
        roles: Sequence[str],
        *,
        token_sha256: str | None,
        certificate_pem: str | None,
        password: str | None,
        prefixes: Sequence[str],
        expires_at: datetime | None,
        key: str | None,
    ) -> Call[schemas.AccessChanged]:
        given = {
            "token_sha256": token_sha256,
            "certificate_pem": certificate_pem,
            "password": password,
            "prefixes": list(prefixes) or None,
            "expires_at": expires_at,
        }
        body = {"name": name, "roles": list(roles)} | {k: v for k, v in given.items() if v is not None}
        return self._call("POST", "/v1/access", schemas.AccessChanged, body=body, key=key or _fresh_key())

    def revoke(self, name: str, *, force: bool, key: str | None) -> Call[schemas.AccessChanged]:
        asked = urlencode({"name": name, "force": "true" if force else "false"})
        return self._call("DELETE", f"/v1/access?{asked}", schemas.AccessChanged, key=key or _fresh_key())

    def _write(self, body: dict[str, Any], key: str | None, answer_type: type[T]) -> Call[T]:
        return self._call("POST", "/v1/commands", answer_type, body=body, key=key or _fresh_key())


def _fresh_key() -> str:
    return secrets.token_urlsafe(_SOME)
