"""Durable storage of a trust_disk member; volatile members need none."""
