"""Acceptance checklist 1.5, "Auth": each kind of collection is gated by tickets, as any group is."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from enclave import Identity
from node import CollectionsMachine, Preference
from tests.node.collections.support import CELL, KINDS, ONCE, ONE, Order, joined, run
from tests.node.group.test_acceptance_tickets import Ministry, TwoOf
from tests.support.groups import INIT, JOIN, KEY, Site, Ticket, events, until, within

VALID, EXPIRED = timedelta(minutes=10), -timedelta(minutes=1)


async def network_with_token(site: Site, name: str, ministry: Ministry, expires_in: timedelta) -> Any:
    identity = Identity.generate(name, datetime.now(UTC))
    ticket = Ticket(lambda: ministry.token(identity, expires_in=expires_in))
    return await site.network(name, *site.networks, identity=identity, issuers=[ticket])


async def write(definition: Any, group: Any) -> Any:
    if definition is CELL or definition is ONCE:
        return await within(definition.writer(group).write(Order("x", 1)))
    (kind,) = [kind for kind in KINDS if type(kind.define()) is type(definition)]
    return await within(definition.writer(group).extend(kind.items([1])))


@pytest.mark.parametrize(
    "definition", [*(kind.define() for kind in KINDS), CELL, ONCE], ids=lambda d: type(d).__name__
)
def test_a_reader_with_a_ticket_is_admitted_and_one_without_sees_nothing(definition: Any) -> None:
    async def scenario(site: Site) -> None:
        ministry = Ministry()
        validators = (ministry.validator(),)
        writing = joined(await network_with_token(site, "a", ministry, VALID), INIT, validators=validators)
        await within(writing.when().is_leader())
        done = await write(definition, writing)
        reading = joined(
            await network_with_token(site, "reader", ministry, VALID),
            JOIN,
            validators=validators,
            preference=Preference.OBSERVER,
        )
        stranger = joined(
            await network_with_token(site, "stranger", ministry, EXPIRED),
            JOIN,
            validators=validators,
            preference=Preference.OBSERVER,
        )
        reader = definition.reader(reading)
        await within(reader.when().reaches(done.version))
        await until(lambda: bool(events(site.networks[0], "bond-refused", reason="jwt-expired")))

        assert reader.version == done.version
        assert definition.reader(stranger).version == 0
        assert stranger.bonds == []

    run(scenario)


def test_different_validators_make_different_groups_and_several_are_all_in_the_id() -> None:
    async def scenario(site: Site) -> None:
        one, other = Ministry(), Ministry(secret=b"o" * 32)
        network = await network_with_token(site, "a", one, VALID)
        builder = (
            network.groups.with_key(KEY).with_state_machine(CollectionsMachine()).with_consensus(ONE, INIT)
        )
        ids = {
            builder.id(),
            builder.require_ticket(one.validator()).id(),
            builder.require_ticket(other.validator()).id(),
            builder.require_ticket(one.validator()).require_ticket(TwoOf(other.validator())).id(),
        }

        assert len(ids) == 4

    run(scenario)
