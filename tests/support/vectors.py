"""Where the shared test vectors are. They belong to others and are never copied into the project."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from attestation.collateral.endorsements import Endorsements
from attestation.x509.trust import INTEL_SGX_ROOT, TrustRoot

ROOT: Final = Path(__file__).resolve().parents[2]
VECTORS: Final = Path(os.environ.get("BONDSTONE_VECTORS", ROOT.parent / "shared" / "vectors"))

needs_vectors = pytest.mark.skipif(
    not VECTORS.is_dir(),
    reason=f"the shared vectors are not at {VECTORS} (set BONDSTONE_VECTORS)",
)


def vector(*parts: str) -> bytes:
    """Return the bytes of one vector file."""
    return VECTORS.joinpath(*parts).read_bytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorCase:
    """One quote with one set of collateral at one time; ``entry`` is what the index holds of it."""

    name: str
    quote: bytes
    collateral: bytes
    now: datetime
    root: TrustRoot
    tee: str
    entry: dict[str, Any]

    @property
    def endorsements(self) -> Endorsements:
        return Endorsements.from_json_untrusted(self.collateral)


def _index() -> dict[str, Any]:
    return json.loads(vector("index.json")) if VECTORS.is_dir() else {"real": [], "synthetic": []}


def real_cases() -> list[VectorCase]:
    """Return every real case; none where the vectors are absent."""
    return [
        VectorCase(
            name=f"{item['name']}-{case['dir']}",
            quote=vector("real", item["name"], "quote.bin"),
            collateral=vector("real", item["name"], case["dir"], "collateral.json"),
            now=datetime.fromtimestamp(case["now"], UTC),
            root=INTEL_SGX_ROOT,
            tee=item["tee"],
            entry=case,
        )
        for item in _index()["real"]
        for case in item["cases"]
    ]


def synthetic_cases() -> list[VectorCase]:
    """Return every synthetic case; none where the vectors are absent."""
    if not VECTORS.is_dir():
        return []
    root = TrustRoot.from_bytes_untrusted(vector("synthetic", "root_ca.der"))
    return [
        VectorCase(
            name=item["name"],
            quote=vector("synthetic", item["name"], "quote.bin"),
            collateral=vector("synthetic", item["name"], "collateral.json"),
            now=datetime.fromtimestamp(item["now"], UTC),
            root=root,
            tee="SGX" if item["name"] in {"base-uptodate-3", "base-uptodate-5sgx"} else "TDX",
            entry=item,
        )
        for item in _index()["synthetic"]
    ]


def real_case(name: str) -> VectorCase:
    """Return the real case ``<vector>-<case>``."""
    return next(case for case in real_cases() if case.name == name)
