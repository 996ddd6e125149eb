"""Groups of collections over real bonds on loopback, and one way to fill and read each kind."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import uvloop

from node import CollectionsMachine, Founding, Group, Network, Preference
from node.collections import Cell, Map, Once, PriorityQueue, Set, Vec
from tests.support.groups import FAST, INIT, JOIN, KEY, Site, until_voters, within

ONE = replace(FAST, min_voters=1)


class Order(msgspec.Struct, frozen=True):
    """A value with structure."""

    item: str
    count: int
    price: float = 0.5


def run(scenario: Callable[[Site], Awaitable[None]]) -> None:
    """Run a scenario whose networks are closed at its end."""

    async def in_site() -> None:
        async with Site() as site:
            await scenario(site)

    uvloop.run(in_site())


def joined(network: Network, founding: Founding, *, settings=ONE, validators=(), **more: Any) -> Group:
    builder = network.groups.with_key(KEY).with_state_machine(CollectionsMachine())
    builder = builder.with_consensus(settings, founding)
    for validator in validators:
        builder = builder.require_ticket(validator)
    return replace(builder, **more).join()


async def founder(site: Site, name: str = "a", **more: Any) -> Group:
    """Return a member that leads a group of its own."""
    group = joined(await site.network(name), INIT, **more)
    await within(group.when().is_leader())
    return group


async def member(site: Site, name: str, **more: Any) -> Group:
    """Return one more member of the group that the site's first network founded."""
    group = joined(await site.network(name, *site.networks), JOIN, **more)
    await within(group.when().online())
    return group


async def observer(site: Site, name: str, **more: Any) -> Group:
    """Return a member that never votes or leads: a reader's."""
    return await member(site, name, preference=Preference.OBSERVER, **more)


async def observers(site: Site, number: int) -> list[Group]:
    """Return several observers that join at the same time."""
    networks = [await site.network(f"r{number}", site.networks[0]) for number in range(number)]
    groups = [joined(network, JOIN, preference=Preference.OBSERVER) for network in networks]
    for group in groups:
        await within(group.when().online())
    return groups


async def voters(site: Site, number: int) -> list[Group]:
    """Return a group of ``number`` voters."""
    groups = [await founder(site)]
    for position in range(1, number):
        groups.append(await member(site, "abcdefg"[position]))
    await until_voters(groups, number)
    return groups


async def caught_up(group: Group, version: int) -> None:
    await within(group.when().holds(lambda status: True if status.applied >= version else None))


@dataclass(frozen=True)
class Kind:
    """One kind: its definition, how to add numbered items, and its contents as a plain value."""

    name: str
    define: Callable[[], Any]
    items: Callable[[Iterable[int]], Any]
    """The argument of ``extend``."""
    contents: Callable[[Any], Any]
    expected: Callable[[Iterable[int]], Any]
    remove: Callable[[Any, int], Any]
    """Remove the item of this number, which was added first of those that are left."""

    def __str__(self) -> str:
        return self.name

    async def fill(self, writer: Any, numbers: Iterable[int], batch: int) -> int:
        """Add the numbers, ``batch`` of them in a command; return the version afterwards."""
        left = list(numbers)
        parts = [left[start : start + batch] for start in range(0, len(left), batch)]
        outcomes = await within(
            asyncio.gather(*(writer.extend(self.items(part)) for part in parts)), timeout_s=110
        )
        return max(outcome.version for outcome in outcomes)


def _entry(number: int) -> tuple[int, int, str]:
    return (number, number % 7, f"job {number}")


MAP = Kind(
    "map",
    lambda: Map("items", int, Order),
    lambda numbers: {number: Order("x", number) for number in numbers},
    dict,
    lambda numbers: {number: Order("x", number) for number in numbers},
    lambda writer, number: writer.remove(number),
)
VEC = Kind(
    "vec",
    lambda: Vec("items", Order),
    lambda numbers: [Order("x", number) for number in numbers],
    list,
    lambda numbers: [Order("x", number) for number in numbers],
    lambda writer, number: writer.popleft(),
)
SET = Kind(
    "set",
    lambda: Set("items", int),
    list,
    set,
    set,
    lambda writer, number: writer.remove(number),
)
QUEUE = Kind(
    "queue",
    lambda: PriorityQueue("items", int, str),
    lambda numbers: [_entry(number) for number in numbers],
    lambda view: [(entry.key, entry.priority, entry.value) for entry in view],
    lambda numbers: sorted((_entry(number) for number in numbers), key=lambda entry: (-entry[1], entry[0])),
    lambda writer, number: writer.remove(number),
)
KINDS = [MAP, VEC, SET, QUEUE]
CELL = Cell("cell", Order)
ONCE = Once("once", Order)
