"""The only source of randomness in simulations: streams named by the seed and by the part that draws."""

from random import Random


def stream(seed: str, drawer: str) -> Random:
    """Return a stream that is the same in every process, whatever the hash seed."""
    return Random(f"{seed}/{drawer}")  # noqa: S311 - reproducibility is the point, not secrecy
