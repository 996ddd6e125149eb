"""Replicated state machines: the protocol, the built-in ones, and loading a user's own."""
