"""The one place where simulations get chance from: streams named by the seed and by who draws."""

from random import Random


def stream(seed: str, drawer: str) -> Random:
    """Return a stream that is the same in every process and for every hash seed (Random hashes with SHA-512)."""
    return Random(f"{seed}/{drawer}")  # noqa: S311 - reproducibility is the point, not secrecy
