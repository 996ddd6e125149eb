"""The node's error tree."""


class NodeError(Exception):
    """The base."""


class ConfigError(NodeError):
    """The configuration is wrong; the message names the key and what to do. Exit code 2."""


class LocalProtocolError(NodeError):
    """This node broke a protocol: a bug of its own."""


class RemoteProtocolError(NodeError):
    """A peer broke a protocol: its connection closes, with the reason in the audit log."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class CorruptStorageError(NodeError):
    """The disk returned other data than was written; the node stops."""


class SnapshotFileError(CorruptStorageError):
    """The log begins behind a snapshot, and the file with that snapshot is not what was written.

    ``reason`` is a stable kebab-case code; the text ends with it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{message} ({reason})")
        self.reason = reason
