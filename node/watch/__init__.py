"""Watches of a key-value store: deterministic, without sockets, clocks or tasks."""
