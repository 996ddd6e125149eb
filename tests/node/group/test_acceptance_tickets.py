"""Acceptance checklist 17 to 21: which peers are admitted, and until when. And one group of nodes in mock TDs."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import uvloop
from joserfc import jwt
from joserfc.jwk import OctKey

from attestation.tickets.ids import network_id_of_name
from attestation.tickets.jwt import JwtRules, JwtValidator, load_keys_untrusted
from attestation.tickets.protocol import TicketValidator
from attestation.tickets.tdx import TdxValidator
from enclave.identity import Identity
from enclave.issuer import TdxTicketIssuer
from enclave.mock.authority import MockAuthority
from node.group.group import Group
from node.group.identity import GroupKey
from node.group.network import Network
from tests.support.bonds import Clock
from tests.support.groups import (
    ALONE,
    GET,
    INIT,
    JOIN,
    NAME,
    Site,
    Ticket,
    add,
    counter,
    events,
    until,
    until_voters,
    within,
)
from tests.support.tickets import FIRMWARE, REGISTERS, policy

LIFETIME = timedelta(minutes=10)
NEVER_S = 3  # for this long the checklist watches that no peer is admitted after all
REVOKED_S = 8  # so soon after its ticket a bond must be gone


@dataclass(frozen=True)
class Ministry:
    """Signs tokens, and makes the validators that believe it."""

    secret: bytes = b"m" * 32
    ticket_class: str = "jwt"
    rules: dict[str, Any] = field(default_factory=dict)

    def token(self, identity: Identity, *, expires_in: timedelta = LIFETIME, **claims: Any) -> bytes:
        now = datetime.now(UTC)
        payload = {
            "iss": "ministry",
            "aud": "members",
            "sub": identity.peer_id.hex(),
            "exp": int((now + expires_in).timestamp()),
            **claims,
        }
        return jwt.encode({"alg": "HS256"}, payload, OctKey.import_key(self.secret)).encode()

    def validator(self) -> JwtValidator:
        key = OctKey.import_key(self.secret).as_dict(private=True)
        keys = load_keys_untrusted(json.dumps({"keys": [{**key, "alg": "HS256"}]}).encode())
        rules = JwtRules(
            issuer="ministry",
            audience="members",
            subject=None,
            required_claims=self.rules,
            max_age=None,
            max_lifetime=None,
            non_expiring=False,
        )
        return JwtValidator(keys=keys, rules=rules)


class TwoOf:
    """Two tokens in one ticket class each: a validator that judges the class ``second``."""

    ticket_class = "second"
    mock = False

    def __init__(self, inner: JwtValidator) -> None:
        self._inner = inner
        self.signature = inner.signature[::-1]
        self.validate = inner.validate


@dataclass
class Member:
    network: Network
    ticket: Ticket
    clock: Clock
    group: Group | None = None

    def join(self, validators: Sequence[TicketValidator], **more: Any) -> Group:
        founding = more.pop("founding", ALONE)
        self.group = counter(self.network, founding, validators=tuple(validators), **more).join()
        return self.group

    @property
    def peers(self) -> set[bytes]:
        assert self.group is not None
        return {bond.peer.id for bond in self.group.bonds}


async def member(site: Site, name: str, ministry: Ministry, *, expires_in: timedelta = LIFETIME) -> Member:
    """Start a network that shows ``ministry``'s token and knows every network before it."""
    identity, clock = Identity.generate(name, datetime.now(UTC)), Clock()
    ticket = Ticket(lambda: ministry.token(identity, expires_in=expires_in))
    network = await site.network(name, *site.networks, identity=identity, issuers=[ticket], clock=clock)
    return Member(network, ticket, clock)


def refusals(members: Sequence[Member], reason: str) -> int:
    """How often they have refused a peer for this reason."""
    return sum(len(events(m.network, "bond-refused", reason=reason)) for m in members)


async def refused(members: Sequence[Member], reason: str) -> None:
    """Wait until one of them has refused a peer for this reason."""
    await until(lambda: refusals(members, reason) > 0)


def test_17_only_peers_with_a_valid_token_can_bond() -> None:
    async def scenario() -> None:
        async with Site() as site:
            ministry = Ministry()
            a = await member(site, "a", ministry)
            b = await member(site, "b", ministry)
            expired = await member(site, "expired", ministry, expires_in=-timedelta(minutes=1))
            missing = await member(site, "missing", ministry)
            missing.ticket.make = bytes
            copied = await member(site, "copied", ministry)
            copied.ticket.make = a.ticket.make
            everybody = [a, b, expired, missing, copied]
            for one in everybody:
                one.join([ministry.validator()])

            await until(lambda: a.peers == {b.network.me.id} and b.peers == {a.network.me.id})
            reasons = ("jwt-expired", "jwt-malformed", "jwt-subject")
            for reason in reasons:
                await refused([a, b], reason)
            before = [refusals([a, b], reason) for reason in reasons]
            await asyncio.sleep(NEVER_S)
            # They tried again, and not one of their tries was a bond, not even for a moment.
            assert all(refusals([a, b], reason) > n for reason, n in zip(reasons, before, strict=True))
            admitted = {
                (one.network.me.name, event["name"])
                for one in everybody
                for event in events(one.network, "bond-admitted")
            }
            assert admitted == {("a", "b"), ("b", "a")}
            assert [one.peers for one in everybody[2:]] == [set()] * 3

    uvloop.run(scenario())


async def _three(site: Site, lifetimes: Sequence[timedelta]) -> list[Member]:
    """Three bonded members, whose tokens live for so long."""
    ministry = Ministry()
    members = [
        await member(site, name, ministry, expires_in=lifetime)
        for name, lifetime in zip("abc", lifetimes, strict=True)
    ]
    for one in members:
        one.join([ministry.validator()])
    ids = {one.network.me.id for one in members}
    await until(lambda: all(one.peers | {one.network.me.id} == ids for one in members))
    return members


def test_18_a_bond_ends_when_its_token_is_withdrawn_and_stays_when_it_is_renewed() -> None:
    async def scenario() -> None:
        async with Site() as site:
            a, b, c = await _three(site, [timedelta(seconds=3)] * 3)

            c.ticket.make = bytes
            await until(lambda: c.network.me.id not in a.peers | b.peers, REVOKED_S)

            for judge, other in ((a, b), (b, a)):
                renewed = lambda: events(judge.network, "ticket-renewed", name=other.network.me.name)  # noqa: B023, E731
                await until(lambda: renewed() != [])  # noqa: B023
                assert other.network.me.id in judge.peers

    uvloop.run(scenario())


def test_18_a_bond_ends_when_its_token_has_expired() -> None:
    async def scenario() -> None:
        async with Site() as site:
            a, b, c = await _three(site, [timedelta(hours=2), timedelta(hours=2), LIFETIME])

            a.clock.shift = LIFETIME * 2
            await until(lambda: a.peers == {b.network.me.id})

            assert events(a.network, "ticket-expired", name="c")
            assert b.peers == {a.network.me.id, c.network.me.id}

    uvloop.run(scenario())


def test_19_a_group_key_can_be_derived_from_the_validators() -> None:
    async def scenario() -> None:
        async with Site() as site:
            ministry = Ministry()
            a, b = await member(site, "a", ministry), await member(site, "b", ministry)
            keys = [GroupKey.derived([ministry.validator()]) for _ in range(2)]
            other = GroupKey.derived([Ministry(secret=b"o" * 32).validator()])
            assert keys[0] == keys[1] != other

            for one, key in zip((a, b), keys, strict=True):
                one.join([ministry.validator()], key=key)

            assert a.group is not None
            assert b.group is not None
            assert a.group.id == b.group.id
            await until(lambda: a.peers == {b.network.me.id} and b.peers == {a.network.me.id})

    uvloop.run(scenario())


@pytest.mark.parametrize(
    "theirs",
    [Ministry(secret=b"o" * 32), Ministry(rules={"team": "blue"}), None],
    ids=["another-key", "another-rule", "no-validator"],
)
def test_20_members_with_different_validators_never_bond(theirs: Ministry | None) -> None:
    async def scenario() -> None:
        async with Site() as site:
            ours = Ministry()
            a = await member(site, "a", ours)
            b = await member(site, "b", ours)
            a.join([ours.validator()])
            b.join([] if theirs is None else [theirs.validator()])

            assert a.group is not None
            assert b.group is not None
            assert a.group.id != b.group.id
            await refused([a], "group-not-found")
            assert (a.peers, b.peers) == (set(), set())

    uvloop.run(scenario())


def test_21_every_one_of_several_validators_must_be_satisfied() -> None:
    async def scenario() -> None:
        async with Site() as site:
            first, second = Ministry(), Ministry(secret=b"s" * 32)
            validators = [first.validator(), TwoOf(second.validator())]
            members: dict[str, Member] = {}
            for name, signer in {"a": second, "b": second, "half": first}.items():
                identity = Identity.generate(name, datetime.now(UTC))
                tickets = [
                    Ticket(partial(first.token, identity)),
                    Ticket(partial(signer.token, identity), ticket_class="second"),
                ]
                network = await site.network(name, *site.networks, identity=identity, issuers=tickets)
                members[name] = Member(network, tickets[0], Clock())
                members[name].join(validators)
            a, b, half = members.values()

            await until(lambda: a.peers == {b.network.me.id} and b.peers == {a.network.me.id})
            await refused([a, b], "jwt-signature")
            assert half.peers == set()

    uvloop.run(scenario())


def test_nodes_in_mock_tds_form_one_group_and_another_image_does_not_join_it() -> None:
    async def scenario() -> None:
        async with Site() as site:
            authority = MockAuthority.create(datetime.now(UTC))
            judge = TdxValidator(policy=policy(), root=authority.trust_root, endorsements_source=None)
            groups: list[Group] = []
            for name, firmware in {"a": FIRMWARE, "b": FIRMWARE, "evil": b"\x66" * 48}.items():
                identity = Identity.generate(name, datetime.now(UTC))
                issuer = TdxTicketIssuer(
                    attester=authority.create_td(mrtd=firmware, rtmrs=REGISTERS),
                    identity=identity,
                    network_id=network_id_of_name(NAME),
                    endorsements_source=authority,
                    started_at=datetime.now(UTC),
                    lifetime=LIFETIME,
                )
                network = await site.network(name, *site.networks, identity=identity, issuers=[issuer])
                founding = INIT if name == "a" else JOIN
                groups.append(counter(network, founding, validators=(judge,)).join())
            a, b, evil = groups

            await until_voters([a, b], 2)
            await within(b.execute(add(7)))
            assert (await within(a.query(GET))).value == {"value": 7}
            assert all(bond.mock for bond in a.bonds)
            await until(lambda: events(site.networks[0], "bond-refused", reason="measurement-mismatch") != [])
            assert evil.bonds == []
            assert evil.status.cluster_id is None

    uvloop.run(scenario())
