import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner, Result

from attestation.collateral.endorsements import Endorsements
from attestation.errors import (
    AttestationError,
    EndorsementsUnavailableError,
    MalformedError,
    VerificationError,
)
from enclave.mock.authority import MockAuthority
from enclave.mock.pccs import PccsFault, PCCSSettings, create_pccs
from enclave.mock.statement import Statement
from node.cli.collateral import app
from node.cli.exits import exit_code_of
from node.cli.main import main
from node.errors import ConfigError
from tests.support.pccs import FaultScript, platform_of
from tests.support.vectors import VECTORS, needs_vectors, vector

# The command reads the host's clock, so what it is served must be valid by that.
NOW = datetime.now(UTC)
AUTHORITY = MockAuthority.create(NOW)
SET = AUTHORITY.endorsements(NOW)
FMSPC = platform_of(SET).fmspc.hex()


@contextmanager
def serving(faults: FaultScript, **options: Any) -> Iterator[str]:
    """A PCCS on a loopback port, over real sockets."""
    listener = socket.create_server(("127.0.0.1", 0))
    options.setdefault("endorsements", lambda: SET)
    settings = PCCSSettings(fault=faults, **options)
    server = uvicorn.Server(
        uvicorn.Config(create_pccs(settings), log_level="critical", lifespan="off", ws="none")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def raised(result: Result, kind: type[Exception]) -> Exception:
    """The error that ``main`` turns into a message and an exit code."""
    assert isinstance(result.exception, kind), result.output
    return result.exception


@pytest.fixture
def root_file(tmp_path: Path) -> Path:
    path = tmp_path / "root.der"
    path.write_bytes(AUTHORITY.root.certificate_der)
    return path


@pytest.fixture
def collateral_file(tmp_path: Path) -> Path:
    path = tmp_path / "collateral.json"
    path.write_bytes(SET.to_json())
    return path


# ---- fetch --------------------------------------------------------------------------------------


def test_fetch_prints_the_verified_set_as_json_on_stdout(root_file: Path) -> None:
    with serving(FaultScript()) as url:
        result = invoke("fetch", "--fmspc", FMSPC, "--pccs", url, "--trust-root", root_file)

    assert result.exit_code == 0, result.output
    assert Endorsements.from_json_untrusted(result.stdout.encode()) == SET


def test_fetch_knows_the_platform_from_a_quote(root_file: Path, tmp_path: Path) -> None:
    quote = tmp_path / "quote.bin"
    quote.write_bytes(AUTHORITY.create_td().quote(bytes(64)))
    output = tmp_path / "fetched.json"
    with serving(FaultScript()) as url:
        result = invoke(
            "fetch", "--quote", quote, "--pccs", url, "--trust-root", root_file, "-o", output, "--json"
        )

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["fmspc"] == FMSPC
    assert json.loads(result.stdout)["mock"] is True
    assert Endorsements.from_json_untrusted(output.read_bytes()) == SET


def test_fetch_uses_its_cache_when_the_source_is_down(root_file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    common = ["fetch", "--fmspc", FMSPC, "--trust-root", str(root_file), "--cache", str(cache)]
    faults = FaultScript()
    with serving(faults) as url:
        first = invoke(*common, "--pccs", url)
        faults.fail_all(PccsFault.NOT_FOUND)
        second = invoke(*common, "--pccs", url)

    assert first.exit_code == second.exit_code == 0, second.output
    assert first.stdout == second.stdout


def test_fetch_of_what_is_not_genuine_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "fetched.json"
    with serving(FaultScript()) as url:
        # Under Intel's root, which is the default.
        result = invoke("fetch", "--fmspc", FMSPC, "--pccs", url, "-o", output)
    error = raised(result, VerificationError)

    assert isinstance(error, AttestationError)
    assert error.reason == "untrusted-root"
    assert not output.exists()


def test_fetch_of_an_unknown_platform_is_undecided(root_file: Path) -> None:
    with serving(FaultScript()) as url:
        result = invoke("fetch", "--fmspc", "0" * 12, "--pccs", url, "--trust-root", root_file)
    error = raised(result, EndorsementsUnavailableError)

    assert isinstance(error, AttestationError)
    assert error.reason == "platform-unknown"


def test_fetch_into_a_file_reports_what_it_wrote(root_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "fetched.json"
    common = ["fetch", "--fmspc", FMSPC, "--trust-root", str(root_file)]
    with serving(FaultScript()) as url:
        good = invoke(*common, "--pccs", url, "-o", output)
        bad = invoke(*common, "--pccs", url, "-o", tmp_path / "nowhere" / "x.json")

    assert good.exit_code == 0, good.output
    assert f"verified, from {url}" in good.stdout
    assert "cannot write" in str(raised(bad, ConfigError))


@pytest.mark.parametrize(("update", "reason"), [("early", None), ("17", "evaluation-number-gone")])
def test_fetch_requests_the_given_update(root_file: Path, update: str, reason: str | None) -> None:
    common = ["fetch", "--fmspc", FMSPC, "--trust-root", str(root_file), "--update", update]
    with serving(FaultScript()) as url:
        result = invoke(*common, "--pccs", url)

    if reason is None:
        assert result.exit_code == 0, result.output
    else:
        error = raised(result, EndorsementsUnavailableError)
        assert isinstance(error, AttestationError)
        assert error.reason == reason


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "which platform"),
        (["--fmspc", FMSPC, "--quote", "x"], "which platform"),
        (["--fmspc", "xyz"], "12 hex digits"),
        (["--fmspc", FMSPC, "--ca", "evil"], "platform"),
        (["--fmspc", FMSPC, "--pccs", "http://pccs.example"], "https"),
        (["--fmspc", FMSPC, "--update", "soon"], "--update"),
        (["--quote", "/nowhere/quote.bin"], "the quote: cannot read /nowhere/quote.bin"),
        (["--fmspc", FMSPC, "--tls-ca", "/nowhere/ca.pem"], "TLS certificates"),
    ],
)
def test_fetch_reports_what_is_wrong_with_its_arguments(arguments: list[str], text: str) -> None:
    assert text in str(raised(invoke("fetch", *arguments), ConfigError))


# ---- numbers ------------------------------------------------------------------------------------

OLD_SET = AUTHORITY.endorsements(NOW, Statement(tcb_evaluation_data_number=18))


def test_numbers_lists_what_is_published(root_file: Path) -> None:
    with serving(FaultScript(), evaluation_numbers=lambda: AUTHORITY.evaluation_numbers(NOW)) as url:
        result = invoke("numbers", "--pccs", url, "--trust-root", root_file, "--json")
        table = invoke("numbers", "--pccs", url, "--trust-root", root_file)
        under_intels = invoke("numbers", "--pccs", url)
    value = json.loads(result.stdout)

    assert [entry["tcb_evaluation_data_number"] for entry in value["numbers"]] == [20, 19]
    assert value["numbers"][0]["recovery_event_date"] == "2026-05-12T00:00:00Z"
    assert (value["verified"], value["mock"], value["source"]) == (True, True, url)
    assert "standard" not in value
    assert f"verified, from {url}" in table.stdout
    raised(under_intels, VerificationError)


def test_numbers_shows_which_one_standard_and_early_give_and_whether_it_is_still_published(
    root_file: Path,
) -> None:
    options = {
        "endorsements": lambda: OLD_SET,
        "early": lambda: SET,
        "evaluation_numbers": lambda: AUTHORITY.evaluation_numbers(NOW),
    }
    with serving(FaultScript(), **options) as url:
        result = invoke("numbers", "--fmspc", FMSPC, "--pccs", url, "--trust-root", root_file, "--json")
    value = json.loads(result.stdout)

    # The set that this source calls the standard one has a number that is not on the list.
    assert value["standard"] == {"tcb_info": 18, "qe_identity": 20, "published": False}
    assert value["early"] == {"tcb_info": 20, "qe_identity": 20, "published": True}


def test_numbers_of_a_source_without_the_list_are_undecided(root_file: Path) -> None:
    with serving(FaultScript()) as url:
        result = invoke("numbers", "--pccs", url, "--trust-root", root_file)
    error = raised(result, EndorsementsUnavailableError)

    assert isinstance(error, AttestationError)
    assert error.reason == "collateral-not-found"


# ---- show and verify ----------------------------------------------------------------------------


def test_show_states_that_nothing_is_verified(collateral_file: Path) -> None:
    result = invoke("show", collateral_file)
    value = json.loads(invoke("show", collateral_file, "--json").stdout)

    assert "nothing here is verified" in result.stdout
    assert value["verified"] is False
    assert value["digest"] == SET.digest.hex()
    assert value["pck_crl"]["revoked"] == 0


def test_verify_accepts_a_genuine_and_current_set(collateral_file: Path, root_file: Path) -> None:
    result = invoke("verify", collateral_file, "--trust-root", root_file, "--json")

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["verified"] is True


@pytest.mark.parametrize(("days", "reason"), [(60, "tcb-info-expired"), (-60, "root-crl-not-yet-valid")])
def test_verify_refuses_a_set_outside_its_window(
    collateral_file: Path, root_file: Path, days: int, reason: str
) -> None:
    at = (NOW + timedelta(days=days)).isoformat()
    result = invoke("verify", collateral_file, "--at", at, "--trust-root", root_file, "--json")
    value = json.loads(result.stdout)

    assert result.exit_code == 1
    assert (value["verified"], value["reason"]) == (False, reason)


def test_verify_refuses_a_mock_set_under_intels_root(collateral_file: Path) -> None:
    result = invoke("verify", collateral_file)

    assert result.exit_code == 1
    assert "untrusted-root" in result.stdout


def test_verify_refuses_a_forged_pck_crl(tmp_path: Path, root_file: Path) -> None:
    other = MockAuthority.create(NOW).endorsements(NOW)
    value = {**json.loads(SET.to_json()), "pck_crl": other.pck_crl.hex()}
    path = tmp_path / "forged.json"
    path.write_text(json.dumps(value))
    result = invoke("verify", path, "--trust-root", root_file, "--json")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["reason"].startswith("pck-crl")


def test_names_in_foreign_bytes_drive_neither_the_terminal_nor_the_table(tmp_path: Path) -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "\x1b[2J[/bold][red]x")])
    key = ec.generate_private_key(ec.SECP256R1())
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name)
        .last_update(NOW)
        .next_update(NOW + timedelta(days=1))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "evil.json"
    evil = crl.public_bytes(serialization.Encoding.DER)
    path.write_bytes(replace(SET, pck_crl=evil).to_json())
    result = invoke("show", path)

    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    assert "\\x1b[2J[/bold][red]x" in result.stdout


@pytest.mark.parametrize("command", ["show", "verify"])
def test_an_invalid_collateral_is_refused(command: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{}")

    raised(invoke(command, path), MalformedError)


@needs_vectors
@pytest.mark.parametrize(
    "case", sorted(str(path.relative_to(VECTORS / "real")) for path in VECTORS.glob("real/*/case*"))
)
def test_every_recorded_set_of_intels_is_genuine_within_its_window(case: str) -> None:
    name, directory = case.split("/")
    index = json.loads(vector("index.json"))
    entry = next(item for item in index["real"] if item["name"] == name)
    recorded = next(item for item in entry["cases"] if item["dir"] == directory)
    at = recorded["now"]
    first, last = recorded["collateral_window"]
    path = VECTORS / "real" / case / "collateral.json"
    if entry["tee"] != "TDX":
        # Named as what it is: this project verifies TDX.
        error = raised(invoke("show", path), MalformedError)
        assert isinstance(error, AttestationError)
        assert error.reason == "tcb-info-not-tdx"
        return
    result = invoke("verify", path, "--at", str(at), "--json")
    value = json.loads(result.stdout)

    assert result.exit_code == (0 if first <= at <= last else 1), result.output
    assert value["mock"] is False
    # One set was recorded later than the time that others judge its quote at.
    assert value["reason"] == (None if first <= at <= last else "pck-crl-not-yet-valid")


# ---- exit codes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["fetch", "--fmspc", FMSPC, "--pccs", "URL", "--trust-root", "ROOT"], 0),
        (["fetch", "--fmspc", FMSPC, "--pccs", "URL"], 1),
        (["fetch", "--fmspc", "xyz"], 2),
        (["fetch", "--no-such-flag"], 2),
        (["fetch", "--fmspc", "0" * 12, "--pccs", "URL", "--trust-root", "ROOT"], 3),
        (["verify", "FILE", "--trust-root", "ROOT"], 0),
        (["verify", "FILE"], 1),
        (["verify", "FILE", "--at", "noon"], 2),
        (["show", "/nowhere.json"], 2),
    ],
)
def test_the_exit_code_means_yes_no_usage_or_undecided(
    arguments: list[str],
    code: int,
    root_file: Path,
    collateral_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(FaultScript()) as url:
        words = {"URL": url, "ROOT": str(root_file), "FILE": str(collateral_file)}
        given = [words.get(item, item) for item in arguments]
        monkeypatch.setattr("sys.argv", ["bondstone", "collateral", *given])
        with pytest.raises(SystemExit) as caught:
            main()
    printed = capsys.readouterr()

    assert (caught.value.code or 0) == code
    assert bool(printed.out) == (code == 0 or (arguments[0] == "verify" and code == 1))
    assert "Traceback" not in printed.err


# ---- compare ------------------------------------------------------------------------------------


def test_compare_shows_the_verdict_on_a_quote_once_the_early_set_is_standard(
    root_file: Path, tmp_path: Path
) -> None:
    quote = tmp_path / "quote.hex"
    quote.write_bytes(AUTHORITY.create_td().quote(bytes(64)).hex().encode())
    with serving(FaultScript(), endorsements=lambda: OLD_SET, early=lambda: SET) as url:
        given = ("compare", quote, "--pccs", url, "--trust-root", root_file)
        result, printed = invoke(*given, "--json"), invoke(*given)

    assert result.exit_code == 0, result.output
    reports = json.loads(result.stdout)
    numbers = {
        update: report["collateral"]["tcb_evaluation_data_number"] for update, report in reports.items()
    }
    assert numbers == {"standard": 18, "early": 20}
    assert {report["accepted"] for report in reports.values()} == {True}
    assert "standard" in printed.stdout
    assert "accepted" in printed.stdout


def test_compare_without_the_sets_decides_nothing(root_file: Path, tmp_path: Path) -> None:
    quote = tmp_path / "quote"
    quote.write_bytes(AUTHORITY.create_td().quote(bytes(64)))
    with serving(FaultScript(always={"tcb-info": PccsFault.NOT_FOUND})) as url:
        result = invoke("compare", quote, "--pccs", url, "--trust-root", root_file)
    assert exit_code_of(raised(result, EndorsementsUnavailableError)) == 3
