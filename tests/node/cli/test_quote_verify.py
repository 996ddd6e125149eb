"""``bondstone quote verify`` and ``show``: every form, everything that was given is looked at."""

import base64
import json
from datetime import UTC, datetime

import pytest
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey
from typer.testing import CliRunner

from attestation.eventlog.verify import encode_event_log
from enclave.mock.authority import MockAuthority
from node.cli.exits import exit_code_of
from node.cli.quote import app

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
AUTHORITY = MockAuthority.create(NOW)
TD = AUTHORITY.create_td()
NONCE = bytes(range(32))
QUOTE = TD.quote(NONCE.ljust(64, b"\0"))
COLLATERAL = AUTHORITY.endorsements(NOW).to_json()
POLICY = """
version = 1
[tcb]
accepted_statuses = ["UpToDate"]
[reference_values]
accept_any_td = true
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "collateral.json").write_bytes(COLLATERAL)
    (tmp_path / "root.der").write_bytes(AUTHORITY.trust_root.certificate_der)
    (tmp_path / "quote").write_bytes(QUOTE)

    def command(*arguments, quote="quote", verb="verify"):
        given = [verb, str(tmp_path / quote), *map(str, arguments)]
        if verb == "verify":
            given += [
                "--collateral",
                str(tmp_path / "collateral.json"),
                "--trust-root",
                str(tmp_path / "root.der"),
            ]
            given += ["--at", NOW.isoformat()]
        result = CliRunner().invoke(app, given)
        code = (
            result.exit_code
            if isinstance(result.exception, SystemExit | None)
            else exit_code_of(result.exception)
        )
        return (
            code,
            f"{result.stdout}{'' if isinstance(result.exception, SystemExit | None) else result.exception}",
        )

    return command


FORMS = {
    "raw": QUOTE,
    "hex": QUOTE.hex().encode(),
    "hex-with-0x-and-newlines": b"0x" + QUOTE.hex().upper().encode() + b"\n",
    "hex-in-lines": b"\n".join(QUOTE.hex().encode()[i : i + 64] for i in range(0, 2 * len(QUOTE), 64)),
    "base64": base64.encodebytes(QUOTE),
    "base64url": base64.urlsafe_b64encode(QUOTE).rstrip(b"="),
}


@pytest.mark.parametrize("form", FORMS)
def test_hex_and_base64_are_recognised(run, tmp_path, form):
    (tmp_path / "form").write_bytes(FORMS[form])
    assert run(quote="form")[0] == 0
    assert run(quote="form", verb="show")[0] == 0


TD_REPORT = b"\x81" + bytes(1023)
OTHERS = {
    "json-with-a-quote": (json.dumps({"quote": QUOTE.hex()}).encode(), "its member 'quote'"),
    "json": (b'{"a": 1}', "JSON, but not a quote"),
    "td-report": (TD_REPORT, "a TD report"),
    "td-report-in-hex": (TD_REPORT.hex().encode(), "a TD report"),
    "azure-hcl": (b"HCLA" + bytes(2000), "an Azure HCL attestation report"),
    "azure-hcl-in-base64": (base64.b64encode(b"HCLA" + bytes(2000)), "an Azure HCL attestation report"),
    "pem": (b"-----BEGIN CERTIFICATE-----\n", "PEM"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_taken_for_a_quote_is_named(run, tmp_path, other):
    data, name = OTHERS[other]
    (tmp_path / "other").write_bytes(data)
    for verb in ("verify", "show"):
        code, said = run(quote="other", verb=verb)
        assert code == 2
        assert name in said
        assert "13360" not in said


# ---- REPORTDATA -----------------------------------------------------------------------------------
def test_report_data_and_a_nonce_are_compared(run):
    full = NONCE.ljust(64, b"\0").hex()
    assert run("--report-data", full)[0] == 0
    assert run("--nonce", NONCE.hex())[0] == 0
    for arguments in (["--report-data", "00" * 64], ["--nonce", "00"], ["--nonce", NONCE[:31].hex()]):
        code, said = run(*arguments)
        assert code == 1
        assert "report-data-mismatch" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["--report-data", "00"],
        ["--report-data", "zz"],
        ["--nonce", ""],
        ["--nonce", "00" * 65],
        ["--nonce", "00", "--report-data", "00" * 64],
    ],
)
def test_invalid_report_data_is_exit_code_2(run, arguments):
    assert run(*arguments)[0] == 2


# ---- policies -------------------------------------------------------------------------------------
def test_without_a_policy_the_second_line_states_that_any_td_would_be_accepted(run):
    first, second, *_ = run()[1].splitlines()
    assert first.startswith("accepted")
    assert "any TD in the world" in second


def test_a_policy_for_a_bare_quote_needs_no_ticket(run, tmp_path):
    (tmp_path / "policy.toml").write_text(POLICY)
    code, said = run("--policy", tmp_path / "policy.toml")
    assert code == 0
    assert "any TD in the world" not in said.splitlines()[1]


@pytest.mark.parametrize("text", ["", "version = 2", "[ticket]", "version = 1\n[tcb]\n", "\x00"])
def test_a_malformed_policy_is_2(run, tmp_path, text):
    (tmp_path / "policy.toml").write_text(text)
    code, said = run("--policy", tmp_path / "policy.toml")
    assert code == 2
    assert "policy.toml" in said


# ---- event logs -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (bytes(100), "cbor"),
        (b"\xff" * 100, "cbor"),
        (encode_event_log(None, ()), "event-log-empty"),
    ],
)
def test_an_event_log_that_the_policy_does_not_rely_on_is_never_passed_over(run, tmp_path, log, reason):
    (tmp_path / "log").write_bytes(log)
    code, said = run("--event-log", tmp_path / "log")
    assert code == 1
    assert "accepted" not in said.splitlines()[0]
    assert reason in said or "event-log" in said


def test_a_dstack_log_is_checked_against_the_registers(run, tmp_path):
    event = {"imr": 3, "event_type": 0x08000001, "digest": "", "event": "app-id", "event_payload": "00"}
    (tmp_path / "log.json").write_text(json.dumps([event]))
    code, said = run("--event-log", tmp_path / "log.json", "--dstack")
    assert code == 1, "the mock TD has not extended this"
    assert "event-log" in said


# ---- show -----------------------------------------------------------------------------------------
def test_show_names_the_platform_and_how_long_its_certificate_is_valid(run):
    said = json.loads(run("--json", verb="show")[1])
    assert set(said["pck"]) == {"fmspc", "ca", "ppid", "pceid", "serial", "valid_from", "valid_until"}
    assert said["pck"]["fmspc"] == AUTHORITY.platform.values.fmspc.hex()


def test_what_cannot_be_decided_is_not_called_refused_and_the_hint_names_the_command(tmp_path):
    (tmp_path / "quote").write_bytes(QUOTE)
    result = CliRunner().invoke(app, ["verify", str(tmp_path / "quote"), "--at", NOW.isoformat()])
    assert result.exit_code == 3
    assert result.stdout.startswith("undecided")
    assert "refused" not in result.stdout
    assert "bondstone collateral fetch" in result.stdout


# ---- a result for a program -----------------------------------------------------------------------
@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "sign.pem"
    path.write_bytes(ECKey.generate_key("P-256").as_pem(private=True))
    path.chmod(0o600)
    return path


def test_an_eat_result_carries_the_verdict_the_policy_and_the_evidence(run):
    code, said = run("--format", "eat", "--nonce", NONCE.hex())
    claims = json.loads(said)
    result = claims["submods"]["tdx"]
    assert code == 0
    assert claims["eat_profile"] == "tag:github.com,2023:veraison/ear"
    assert claims["eat_nonce"] == NONCE.hex()
    assert result["ear.status"] == "affirming"
    assert result["ear.appraisal-policy-id"].startswith("bondstone:")
    assert result["bondstone.any_td"] is True
    assert claims["exp"] > NOW.timestamp()


@pytest.mark.parametrize(("arguments", "status", "code"), [(["--nonce", "00"], "contraindicated", 1)])
def test_an_eat_result_of_a_refusal_is_no_affirmation_and_never_valid_until_anything(
    run, arguments, status, code
):
    exit_code, said = run("--format", "eat", *arguments)
    claims = json.loads(said)
    assert (exit_code, claims["submods"]["tdx"]["ear.status"]) == (code, status)
    assert "exp" not in claims


def test_an_undecided_eat_result_is_neither(tmp_path):
    (tmp_path / "quote").write_bytes(QUOTE)
    result = CliRunner().invoke(
        app, ["verify", str(tmp_path / "quote"), "--at", NOW.isoformat(), "--format", "eat"]
    )
    assert result.exit_code == 3
    assert json.loads(result.stdout)["submods"]["tdx"]["ear.status"] == "none"


def test_an_eat_result_is_signed_only_with_a_key_and_verifies_under_it(run, key_file):
    code, token = run("--format", "eat", "--sign-key", key_file)
    assert code == 0
    key = ECKey.import_key(key_file.read_bytes())
    decoded = jwt.decode(token.strip(), key, algorithms=["ES256"])
    assert decoded.header == {"alg": "ES256", "typ": "eat+jwt", "kid": key.thumbprint()}
    assert decoded.claims["submods"]["tdx"]["ear.status"] == "affirming"
    with pytest.raises(JoseError):
        jwt.decode(token.strip(), ECKey.generate_key("P-256"), algorithms=["ES256"])


def test_a_key_that_cannot_sign_is_2(run, tmp_path, key_file):
    for number, data in enumerate(
        (
            b"",
            b"no key",
            ECKey.generate_key("P-384").as_pem(private=True),
            ECKey.import_key(key_file.read_bytes()).as_pem(private=False),
        )
    ):
        (tmp_path / f"key-{number}").write_bytes(data)
        assert run("--format", "eat", "--sign-key", tmp_path / f"key-{number}")[0] == 2
    assert run("--sign-key", key_file)[0] == 2, "a signature that nobody asked for is not made"
