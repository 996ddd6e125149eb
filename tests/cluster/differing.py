"""A state machine of a user whose members catch up by the documented ``DifferenceSync``; processes load it by name."""

import logging
from typing import Final

from node.machines.kv import KeyValue
from node.simulation.difference import DifferenceSession, DifferenceSync
from node.sync.state_sync import StateSync, Target

MACHINE: Final = "tests.cluster.differing:DifferingStore"
BEGINS: Final = "a session of the user's state sync begins"


class NotedSync(DifferenceSync):
    """Notes each of its sessions in the node's log."""

    def session(self, target: Target) -> DifferenceSession:
        logging.getLogger(__name__).warning("%s, own state: %s", BEGINS, target.own is not None)
        return super().session(target)


class DifferingStore(KeyValue):
    """The key-value store with another state sync."""

    def state_sync(self) -> StateSync:
        return NotedSync()
