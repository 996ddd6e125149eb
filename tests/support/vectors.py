"""Where the shared test vectors are. They belong to others and are never copied into the project."""

import os
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
VECTORS: Final = Path(os.environ.get("BONDSTONE_VECTORS", ROOT.parent / "shared" / "vectors"))

needs_vectors = pytest.mark.skipif(
    not VECTORS.is_dir(),
    reason=f"the shared vectors are not at {VECTORS} (set BONDSTONE_VECTORS)",
)


def vector(*parts: str) -> bytes:
    """Return the bytes of one vector file."""
    return VECTORS.joinpath(*parts).read_bytes()
