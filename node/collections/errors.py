"""The errors of the typed collections, beside those of the group and of the client."""

from node.errors import NodeError


class CollectionError(NodeError):
    """The base."""


class ValueRefusedError(CollectionError):
    """A key or a value is not of the declared type, or has no encoding. Nothing was sent."""


class StoredValueError(CollectionError):
    """A stored key or value is not of the declared type: another program declared another type."""


class AnswerError(CollectionError):
    """The answer has not the form of the collections machine: another machine, or another version."""


class WrongMachineError(CollectionError):
    """The group's state machine is not ``collections``, or the collection has another kind."""
