"""Coverage-guided fuzzing of every parser of foreign bytes: ``python tests/fuzz/run.py SECONDS [TARGET]``.

Each target may raise its declared error and nothing else, and may take 50 ms per 10 kB of input. SECONDS is
the whole budget, shared by the targets; each runs in a process of its own, because atheris never returns.
"""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

with atheris.instrument_imports(include=["attestation"]):
    from attestation.collateral import Endorsements
    from attestation.errors import MalformedError
    from attestation.eventlog_evidence import parse_event_log_untrusted
    from attestation.pck import parse_pck_extension_untrusted
    from attestation.policy_toml import load_policy_untrusted
    from attestation.quote import parse_quote_untrusted
    from attestation.signed_json import extract_signed_untrusted
    from attestation.tcb_info import parse_qe_identity_untrusted, parse_tcb_info_untrusted
    from attestation.ticket_tdx import parse_ticket_untrusted
    from enclave.mock.pki import PCKValues, encode_sgx_extension
    from tests.support import evidence

SECONDS_PER_BYTE_MAX = 0.050 / 10_000
# Below this size a pause of the machine would be judged, not the parser.
BYTES_JUDGED_MIN = 10_000
INPUT_BYTES_MAX = 64 * 1024


def _seeds() -> dict[str, bytes]:
    endorsements = evidence.endorsements()
    return {
        "quote": evidence.quote(),
        "pck_extension": encode_sgx_extension(PCKValues()),
        "tcb_info": endorsements.tcb_info,
        "qe_identity": endorsements.qe_identity,
        "collateral": endorsements.to_json(),
        "answer": b'{"tcbInfo":%s,"signature":"%s"}'
        % (endorsements.tcb_info, endorsements.tcb_info_signature.hex().encode()),
        "event_log": b"",
        "ticket": b"",
        "policy": b"version = 1",
    }


TARGETS: dict[str, Callable[[bytes], object]] = {
    "quote": parse_quote_untrusted,
    "pck_extension": parse_pck_extension_untrusted,
    "tcb_info": parse_tcb_info_untrusted,
    "qe_identity": parse_qe_identity_untrusted,
    "collateral": Endorsements.from_json_untrusted,
    "answer": lambda data: extract_signed_untrusted(data, member="tcbInfo", code="tcb-info"),
    "event_log": parse_event_log_untrusted,
    "ticket": parse_ticket_untrusted,
    "policy": load_policy_untrusted,
}


def _checked(parse: Callable[[bytes], object]) -> Callable[[bytes], None]:
    def seconds(data: bytes) -> float:
        start = time.process_time()
        with contextlib.suppress(MalformedError):
            parse(data)
        return time.process_time() - start

    def run(data: bytes) -> None:
        limit = SECONDS_PER_BYTE_MAX * max(len(data), BYTES_JUDGED_MIN)
        took = seconds(data)
        if took > limit:  # the parser, or a pause of the machine? What is slow is slow again.
            took = min(seconds(data) for _ in range(5))
        assert took <= limit, f"{took:.3f} s for {len(data)} bytes, at most {limit:.3f}"

    return run


def _fuzz_one(target: str, seconds: int) -> None:
    """Fuzz one target in this process; atheris ends it."""
    corpus = tempfile.mkdtemp(prefix=f"fuzz-{target}-")
    Path(corpus, "seed").write_bytes(_seeds()[target])
    atheris.Setup(
        [sys.argv[0], corpus, f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES_MAX}", "-verbosity=0",
         f"-artifact_prefix={corpus}/"],
        _checked(TARGETS[target]),
    )  # fmt: skip
    atheris.Fuzz()


def main(arguments: list[str]) -> int:
    if len(arguments) == 3 and arguments[0] == "--one":
        _fuzz_one(arguments[1], int(arguments[2]))
        return 0
    if len(arguments) not in {1, 2} or not arguments[0].isdigit() or not set(arguments[1:]) <= TARGETS.keys():
        print(f"usage: run.py SECONDS [{'|'.join(TARGETS)}]", file=sys.stderr)
        return 2
    chosen = arguments[1:] or list(TARGETS)
    share = max(1, int(arguments[0]) // len(chosen))
    failed = []
    for target in chosen:
        done = subprocess.run([sys.executable, __file__, "--one", target, str(share)], check=False)
        print(f"{target}: {'ok' if done.returncode == 0 else 'FAILED'} ({share} s)", flush=True)
        if done.returncode != 0:
            failed.append(target)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
