"""Replicated collections with types: the containers of Python, held by a group.

    from node.collections import Map

    ORDERS = Map("orders", str, Order)             # the definition, shared by all who use it

    orders = ORDERS.writer(group)                  # in a process that is a member of the group
    done = await orders.insert("a-17", Order(3))   # done.version, done.replaced
    orders["a-17"]

    view = ORDERS.reader(observer)                 # on another member
    await view.when().reaches(done.version)
    dict(view)

    ORDERS.client(bondstone_client).get("a-17")    # through the HTTP API

Values are ``msgspec.Struct`` classes, dataclasses, and whatever else msgspec decodes. docs/collections.md has
an example of each kind.
"""

from node.collections.base import CollectionWhen, execute_together
from node.collections.cells import Cell, Once
from node.collections.errors import (
    AnswerError,
    CollectionError,
    StoredValueError,
    ValueRefusedError,
    WrongMachineError,
)
from node.collections.maps import Map
from node.collections.outcomes import (
    Enqueued,
    Exchanged,
    Extended,
    Outcome,
    Placed,
    Popped,
    PriorityEntry,
    Pushed,
    Removed,
    Version,
    Written,
    WrittenOnce,
)
from node.collections.queues import PriorityQueue
from node.collections.sets import Set
from node.collections.vecs import Vec

__all__ = [
    "AnswerError",
    "Cell",
    "CollectionError",
    "CollectionWhen",
    "Enqueued",
    "Exchanged",
    "Extended",
    "Map",
    "Once",
    "Outcome",
    "Placed",
    "Popped",
    "PriorityEntry",
    "PriorityQueue",
    "Pushed",
    "Removed",
    "Set",
    "StoredValueError",
    "ValueRefusedError",
    "Vec",
    "Version",
    "Written",
    "WrittenOnce",
    "WrongMachineError",
    "execute_together",
]
