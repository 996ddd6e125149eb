"""Snapshots of a group's whole state, and how a member receives one. No I/O: see ``DESIGN.md``."""
