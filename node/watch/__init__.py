"""Watches of a key-value store. All but ``driver`` is deterministic, without sockets, clocks or tasks."""
