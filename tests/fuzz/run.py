"""Coverage-guided fuzzing of every parser of foreign bytes: ``python tests/fuzz/run.py SECONDS [TARGET]``.

Each target may raise its declared error and nothing else, and may take 50 ms per 10 kB of input. SECONDS is
the whole budget, shared by the targets; each runs in a process of its own, because atheris never returns.
"""

import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

with atheris.instrument_imports(include=["attestation", "node.api.requests", "node.http2"]):
    from attestation.collateral.client.assembly import parse_record_untrusted
    from attestation.collateral.client.responses import decode_crl_untrusted, decode_issuer_chain_untrusted
    from attestation.collateral.endorsements import Endorsements
    from attestation.collateral.evaluation_numbers import parse_evaluation_numbers_untrusted
    from attestation.collateral.freshness import FreshnessState
    from attestation.collateral.signed_json import extract_signed_untrusted
    from attestation.collateral.tcb_info import parse_qe_identity_untrusted, parse_tcb_info_untrusted
    from attestation.encoding.canonical import decode_untrusted, encode
    from attestation.encoding.strict_json import parse_strict_untrusted
    from attestation.errors import MalformedError
    from attestation.eventlog.ccel import encode_ccel, parse_ccel_untrusted
    from attestation.eventlog.dstack import import_dstack_log_untrusted
    from attestation.eventlog.verify import encode_event_log, parse_event_log_untrusted
    from attestation.policy.toml import load_policy_untrusted
    from attestation.quote.codec import parse_quote_untrusted
    from attestation.tickets.jwt import load_keys_untrusted
    from attestation.tickets.tdx import parse_ticket_untrusted
    from attestation.x509.certificates import load_certificate_untrusted, split_pem_untrusted
    from attestation.x509.crl import parse_crl_untrusted
    from attestation.x509.pck import parse_pck_extension_untrusted
    from attestation.x509.trust import TrustRoot
    from enclave.mock.pki import PCKValues, encode_sgx_extension
    from enclave.mock.td import TDSettings
    from node.api.requests import BadRequestError, RequestReader
    from node.errors import ConfigError
    from node.group_document import parse_group_document_untrusted
    from tests.fuzz import http2
    from tests.node.test_group_document import MORE
    from tests.support import eventlogs, evidence, tickets
    from tests.support.documents import MINIMAL

POLICY = b"""
version = 1
[tcb]
accepted_statuses = ["UpToDate"]
[td]
required_attributes = ["SEPT_VE_DISABLE"]
[reference_values]
accept_any_td = true
not_checked = ["mrseam"]
[ticket]
max_age_seconds = 60
max_lifetime_seconds = 60
"""
SECONDS_PER_BYTE_MAX = 0.050 / 10_000
# Below this size a pause of the machine would be judged, not the parser.
BYTES_JUDGED_MIN = 10_000
INPUT_BYTES_MAX = 64 * 1024


def _seeds() -> dict[str, list[bytes]]:
    """Return what each target's mutations start from: real forms, so that they reach the depths."""
    authority = evidence.authority()
    endorsements = evidence.endorsements()
    ccel = encode_ccel(eventlogs.BOOT)
    chain = authority.platform.chain_pem
    return {
        "quote": [
            evidence.quote(),
            evidence.quote(TDSettings(quote_version=5, report_version="1.5")),
        ],
        "pck_extension": [encode_sgx_extension(PCKValues())],
        "certificate": [authority.platform.pck.certificate_der, authority.root.certificate_der],
        "chain": [chain, quote(chain).encode()],
        "crl": [endorsements.pck_crl, endorsements.pck_crl.hex().encode()],
        "tcb_info": [endorsements.tcb_info],
        "qe_identity": [endorsements.qe_identity],
        "evaluation_numbers": [authority.evaluation_numbers(evidence.NOW).document],
        "collateral": [endorsements.to_json()],
        "record": [b'{"version":1,"fetched_at":"2026-01-01T00:00:00Z","source":"s","endorsements":%s}'
                   % endorsements.to_json()],
        "answer": [b'{"tcbInfo":%s,"signature":"%s"}'
                   % (endorsements.tcb_info, endorsements.tcb_info_signature.hex().encode())],
        "ccel": [ccel],
        "event_log": [ccel, encode_event_log(ccel, eventlogs.RUNTIME)],
        "dstack_log": [b'[{"imr":3,"event_type":134217729,"digest":"","event":"a","event_payload":"00"}]'],
        "ticket": [tickets.Bench().ticket()],
        "freshness": [tickets_freshness()],
        "jwt_keys": [b'{"keys":[{"kty":"oct","alg":"HS256","kid":"a","k":"%s"}]}' % (b"A" * 43)],
        "cbor": [encode({"a": [1, b"2", "3", None, True, -4]})],
        "http": [
            b"POST /a?b HTTP/1.1\r\nHost: a:1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.0\r\n\r\n",
            b"PUT / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: a\r\nconnection: x, close\r\nexpect: 100-continue\r\n\r\nx",
        ],
        "http2": [b"".join(http2.Talk(random.Random(seed)).write(5)) for seed in range(8)],
        "json": [b'{"a": [1, "2\\"\\\\", {"b": null}, true]}'],
        "policy": [POLICY],
        "group_document": [(MINIMAL + MORE).encode()],
    }  # fmt: skip


def tickets_freshness() -> bytes:
    """Return the state of a validator that has admitted somebody."""
    bench = tickets.Bench()
    validator = bench.validator()
    validator.validate(bench.ticket(), bench.peer(), tickets.NOW)
    return validator.freshness.to_bytes()


def _both_chains(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        split_pem_untrusted(data, role="pck", count_max=3)
    decode_issuer_chain_untrusted(data.decode("latin-1"), role="tcb-info")


def _both_crls(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        parse_crl_untrusted(data, role="pck-crl")
    decode_crl_untrusted(data, role="pck-crl")


def _root_and_certificate(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        load_certificate_untrusted(data, role="pck")
    TrustRoot.from_bytes_untrusted(data)


def _group_document(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        parse_group_document_untrusted(data, where="group.toml")


def _requests(data: bytes) -> None:
    """Whole and in pieces: the same requests, cut at the same places, or the same refusal."""

    def read(step: int) -> tuple[bytes, int, str]:
        reader, taken, requests = RequestReader(32 * 1024), b"", 0
        try:
            for start in range(0, len(data), step):
                reader.receive_data(data[start : start + step])
                while (piece := reader.next_piece_untrusted()) is not None:
                    taken += piece.data + (b"|" if piece.ends else b"")
                    requests += piece.head is not None
        except BadRequestError as exc:
            return taken, requests, exc.code
        return taken, requests, ""

    whole = read(max(len(data), 1))
    if len(data) <= 512:
        in_pieces = read(1)
        # What is refused has an end that was not handed on whole; what has begun of it is no request.
        assert whole[2] == in_pieces[2], (whole, in_pieces)
        assert whole[2] or whole == in_pieces, (whole, in_pieces)


def _http2(data: bytes) -> None:
    """Whole and in pieces: the same events, and the same answers to frames."""
    whole = http2.ours(data, max(len(data), 1))
    if len(data) <= 512:
        assert whole[1:] == http2.ours(data, 1)[1:]


TARGETS: dict[str, Callable[[bytes], object]] = {
    "quote": parse_quote_untrusted,
    "pck_extension": parse_pck_extension_untrusted,
    "certificate": _root_and_certificate,
    "chain": _both_chains,
    "crl": _both_crls,
    "tcb_info": parse_tcb_info_untrusted,
    "qe_identity": parse_qe_identity_untrusted,
    "evaluation_numbers": parse_evaluation_numbers_untrusted,
    "collateral": Endorsements.from_json_untrusted,
    "record": parse_record_untrusted,
    "answer": lambda data: extract_signed_untrusted(data, member="tcbInfo", code="tcb-info"),
    "ccel": parse_ccel_untrusted,
    "event_log": parse_event_log_untrusted,
    "dstack_log": import_dstack_log_untrusted,
    "ticket": parse_ticket_untrusted,
    "freshness": FreshnessState.from_bytes_untrusted,
    "jwt_keys": load_keys_untrusted,
    "cbor": lambda data: decode_untrusted(data, bytes_max=INPUT_BYTES_MAX, items_max=INPUT_BYTES_MAX),
    "http": _requests,
    "http2": _http2,
    "json": lambda data: parse_strict_untrusted(data, depth_max=32, values_max=8192),
    "policy": load_policy_untrusted,
    "group_document": _group_document,
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


def _fuzz_one(target: str, seconds: int, corpus: str) -> None:
    """Fuzz one target in this process; atheris ends it."""
    for number, seed in enumerate(_seeds()[target]):
        Path(corpus, f"seed-{number}").write_bytes(seed)
    atheris.Setup(
        [sys.argv[0], corpus, f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES_MAX}", "-verbosity=0",
         f"-artifact_prefix={corpus}/"],
        _checked(TARGETS[target]),
    )  # fmt: skip
    atheris.Fuzz()


def main(arguments: list[str]) -> int:
    if len(arguments) == 4 and arguments[0] == "--one":
        _fuzz_one(arguments[1], int(arguments[2]), arguments[3])
        return 0
    if len(arguments) not in {1, 2} or not arguments[0].isdigit() or not set(arguments[1:]) <= TARGETS.keys():
        print(f"usage: run.py SECONDS [{'|'.join(TARGETS)}]", file=sys.stderr)
        return 2
    chosen = arguments[1:] or list(TARGETS)
    share = max(1, int(arguments[0]) // len(chosen))
    failed = []
    for target in chosen:
        corpus = tempfile.mkdtemp(prefix=f"fuzz-{target}-")
        command = [sys.executable, __file__, "--one", target, str(share), corpus]
        if subprocess.run(command, check=False).returncode == 0:
            print(f"{target}: ok ({share} s)", flush=True)
            shutil.rmtree(corpus)
        else:
            print(f"{target}: FAILED ({share} s); the input is in {corpus}", flush=True)
            failed.append(target)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
