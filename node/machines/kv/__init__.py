"""The key-value machine; see ``machine``."""

from node.machines.kv.machine import KeyValue
from node.machines.kv.values import KEY_BYTES_MAX, VALUE_BYTES_MAX

__all__ = ["KEY_BYTES_MAX", "VALUE_BYTES_MAX", "KeyValue"]
