"""The group that a node is in, for the parts of the node that are built before it has the group's key."""

from collections.abc import Sequence
from datetime import datetime

from attestation.tickets.protocol import Cluster
from node.bonds.interface import BondInfo
from node.group.group import Group


class JoinedGroup:
    """None at first. A node joins once, when it has its group key; what asks before that finds no group."""

    def __init__(self) -> None:
        self._group: Group | None = None

    def join(self, group: Group) -> None:
        """Remember the group that the node has joined."""
        self._group = group

    @property
    def group(self) -> Group | None:
        return self._group

    @property
    def id(self) -> bytes | None:
        return None if self._group is None else self._group.id

    @property
    def cluster(self) -> Cluster | None:
        return None if self._group is None else self._group.cluster

    @property
    def bonds(self) -> Sequence[BondInfo]:
        return () if self._group is None else self._group.bonds

    @property
    def log_time(self) -> datetime | None:
        """The time in the group's log, as applied on this node; None without group state."""
        return None if self._group is None else self._group.log_time

    def rejudge(self) -> None:
        """Judge every bond again, because what verdicts rest on has changed."""
        if self._group is not None:
            self._group.rejudge()
