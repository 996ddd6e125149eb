"""How long a verification takes, beside dcap-qvl's Python binding in the same process. JSON on stdout.

    python -m bench.attestation [--calls 1000]

Medians over the calls: from raw (quote and collateral as bytes), warm (collateral verified once), and first
(raw, with nothing kept of earlier calls). Raw and warm profit from the certificates that are kept as parsed,
and from the links of certificates and CRLs that are kept as verified. dcap-qvl keeps nothing. Then a storm of
1,000 different quotes, with the memory before and after. Uses a real quote of the shared vectors if they are
there, otherwise a mock authority's; the report shows which.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import dcap_qvl

from attestation.collateral.endorsements import Endorsements, VerifiedEndorsements, verify_endorsements
from attestation.verifier import verify_quote
from attestation.x509.certificates import (
    load_certificate_untrusted,
    require_issued_by,
    split_pem_untrusted,
)
from attestation.x509.crl import require_crl_signed_by
from attestation.x509.pck import parse_pck_extension_untrusted
from attestation.x509.trust import INTEL_SGX_ROOT, TrustRoot
from enclave.mock.authority import MockAuthority

ROOT = Path(__file__).resolve().parents[1]
VECTORS = Path(os.environ.get("BONDSTONE_VECTORS", ROOT.parent / "shared" / "vectors"))
CASE = VECTORS / "real" / "dcapqvl-tdx_quote"
STORM = 1000
BLOCK = 20


def _evidence() -> tuple[str, bytes, bytes, datetime, TrustRoot]:
    if CASE.is_dir():
        quote = (CASE / "quote.bin").read_bytes()
        collateral = (CASE / "case01" / "collateral.json").read_bytes()
        now = datetime.fromtimestamp(1751000000, UTC)
        return "real (dcapqvl-tdx_quote case01)", quote, collateral, now, INTEL_SGX_ROOT
    now = datetime.now(UTC)
    authority = MockAuthority.create(now)
    quote = authority.create_td().quote(bytes(64))
    return "mock", quote, authority.endorsements(now).to_json(), now, authority.trust_root


def _medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Return each call's medians in milliseconds: of the clock, and of this thread's processor time.

    The calls take turns in blocks of BLOCK calls, so that noise affects all alike. On a busy machine, compare
    only the processor time.
    """
    wall: dict[str, list[float]] = {name: [] for name in calls}
    processor: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(-(-rounds // BLOCK)):
        for name, call in calls.items():
            for _ in range(BLOCK):
                started, used = time.perf_counter(), time.thread_time()
                call()
                processor[name].append(time.thread_time() - used)
                wall[name].append(time.perf_counter() - started)
    return {
        name: {
            "wall_ms": round(statistics.median(wall[name]) * 1000, 3),
            "cpu_ms": round(statistics.median(processor[name]) * 1000, 3),
        }
        for name in calls
    }


def forget() -> None:
    """Empty everything that the verifier keeps between calls."""
    for kept in (
        split_pem_untrusted,
        load_certificate_untrusted,
        require_issued_by,
        require_crl_signed_by,
        parse_pck_extension_untrusted,
    ):
        kept.cache_clear()


def _storm() -> dict[str, object]:
    """Verify different quotes of one platform with one verified collateral; memory must stay flat."""
    now = datetime.now(UTC)
    authority = MockAuthority.create(now)
    td = authority.create_td()
    quotes = [td.quote(index.to_bytes(64, "big")) for index in range(STORM)]
    current = verify_endorsements(authority.endorsements(now), root=authority.trust_root, now=now)
    for quote in quotes[:100]:
        verify_quote(quote, current, now=now)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for quote in quotes:
        verify_quote(quote, current, now=now)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    start = time.perf_counter()
    for quote in quotes:
        verify_quote(quote, current, now=now)
    took = time.perf_counter() - start
    return {
        "quotes": STORM,
        "verifications_per_second": round(STORM / took),
        "memory_growth_bytes": after - before,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    calls = parser.parse_args().calls
    source, quote, collateral, now, root = _evidence()
    text, second = collateral.decode(), int(now.timestamp())
    theirs = dcap_qvl.QuoteCollateralV3.from_json(text)

    def their_verify(parsed: dcap_qvl.QuoteCollateralV3) -> object:
        if root.mock:
            return dcap_qvl.verify_with_root_ca(quote, parsed, root.certificate_der, second)
        return dcap_qvl.verify(quote, parsed, second)

    def verified() -> VerifiedEndorsements:
        return verify_endorsements(Endorsements.from_json_untrusted(collateral), root=root, now=now)

    def first() -> object:
        forget()
        return verify_quote(quote, verified(), now=now)

    current = verified()
    medians = _medians(
        {
            "warm": lambda: verify_quote(quote, current, now=now),
            "raw": lambda: verify_quote(quote, verified(), now=now),
            "first": first,
            "collateral": verified,
            "dcap_qvl_verify": lambda: their_verify(theirs),
            "dcap_qvl_raw": lambda: their_verify(dcap_qvl.QuoteCollateralV3.from_json(text)),
        },
        calls,
    )
    reference = medians["dcap_qvl_verify"]["cpu_ms"]
    print(
        json.dumps(
            {
                "evidence": source,
                "calls": calls,
                "medians": medians,
                "warm_to_dcap_qvl_verify": round(medians["warm"]["cpu_ms"] / reference, 2),
                "raw_to_dcap_qvl_verify": round(medians["raw"]["cpu_ms"] / reference, 2),
                "first_to_dcap_qvl_verify": round(medians["first"]["cpu_ms"] / reference, 2),
                "warm_per_second": round(1000 / medians["warm"]["wall_ms"]),
                "storm": _storm(),
            },
            indent=2,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
