"""``bondstone quote get|show|verify``."""

import shlex
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from attestation.collateral.enforcement import EnforcedSince
from attestation.errors import AttestationError, UndecidedError
from attestation.eventlog.dstack import import_dstack_log_untrusted
from attestation.eventlog.events import compare
from attestation.eventlog.verify import (
    EventLogEvidence,
    event_log_to_json_value,
    parse_event_log_untrusted,
)
from attestation.policy.appraise import REPORT_DATA_UNCHECKED, UNKNOWN_ENFORCEMENT, ReportData
from attestation.policy.result import body_value
from attestation.quote.codec import Quote, TDReport, parse_quote_untrusted
from attestation.quote.layout import CERTIFICATION_PCK_CHAIN
from attestation.values import timestamp
from attestation.verdict import verify_report
from attestation.x509.certificates import load_certificate_untrusted, split_pem_untrusted
from attestation.x509.pck import parse_pck_extension_untrusted
from enclave.attester import REPORT_DATA_BYTES
from node.cli.eat import ear_claims, signed
from node.cli.exits import word_of
from node.cli.inputs import parse_time, write_file
from node.cli.live_quote import fetch_bound_quote
from node.cli.output import BAD, CAUTION, GOOD, STRONG, pairs, print_json, say, say_unchecked, table
from node.cli.quote_file import read_quote
from node.client.inputs import load_policy, load_trust_root, read_file
from node.config import load_node
from node.errors import ConfigError
from node.group_document import load_group_document

ANY_TD: Final = (
    "without --policy any TD in the world would be accepted, whatever runs in it:"
    " only the platform was judged"
)
ADVISORIES: Final = "https://www.intel.com/content/www/us/en/security-center/advisory/"

app = typer.Typer()
File = Annotated[Path, typer.Argument(help="The quote's bytes.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Dstack = Annotated[bool, typer.Option(help="The event log is dstack's JSON.")]
EventLog = Annotated[Path | None, typer.Option(help="The attester's event log: CCEL bytes or our CBOR form.")]


class Form(Enum):
    """The output form of a verdict."""

    TEXT = "text"
    JSON = "json"
    EAT = "eat"


@app.command()
def get(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the quote.")],
    url: Annotated[str | None, typer.Argument(help="A node's API, https://HOST:PORT.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Without a URL: a node file; it selects the TD, real or mock.")
    ] = None,
    report_data: Annotated[
        str | None,
        typer.Option(help="With --config: REPORTDATA, up to 64 bytes of hex, zero-padded."),
    ] = None,
    event_log: Annotated[
        Path | None, typer.Option(help="With a URL: where to write the node's event log.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Save the quote of a live node, or one of the TD that this runs in.

    A node's quote is taken for a fresh nonce, and it must cover that and the node's TLS key. Its signature is
    not verified: use `quote verify` for that.
    """
    if (url is None) == (config is None):
        raise ConfigError("whose quote? hint: the URL of a node, or --config NODE_FILE for this TD's own")
    if url is not None:
        if report_data is not None:
            raise ConfigError("--report-data goes with --config: a node is asked with a fresh nonce")
        _save_quote_of_node(url, output, event_log=event_log, as_json=as_json)
    elif config is not None:
        if event_log is not None:
            raise ConfigError("--event-log goes with a URL; this TD's own log is in its CCEL table")
        _save_own_quote(config, output, report_data=report_data or "", as_json=as_json)


def _save_quote_of_node(url: str, output: Path, *, event_log: Path | None, as_json: bool) -> None:
    bound = fetch_bound_quote(url)
    if event_log is not None:
        if bound.event_log is None:
            raise UndecidedError("event-log-missing", f"{url} serves no event log: leave out --event-log")
        write_file(event_log, bound.event_log)
    write_file(output, bound.quote)
    value = bound.to_json_value()
    if as_json:
        print_json({"file": str(output), "event_log": None if event_log is None else str(event_log), **value})
        return
    say(f"{len(bound.quote)} bytes in {output}, for a fresh nonce and the node's TLS key")
    pinned = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
    pairs((name, value["measurements"][name]) for name in pinned)
    say(("nothing here is verified", STRONG), "; before you pin these values:")
    say(f"  bondstone quote verify {shlex.quote(str(output))} --report-data {value['report_data']} …")


def _save_own_quote(config: Path, output: Path, *, report_data: str, as_json: bool) -> None:
    from node.trust import attester_of

    data = _hex(report_data, what="--report-data")
    if len(data) > REPORT_DATA_BYTES:
        raise ConfigError(f"--report-data has {len(data)} bytes, at most {REPORT_DATA_BYTES}")
    files = load_node(config)
    quote = attester_of(files.document, files.config).quote(data.ljust(REPORT_DATA_BYTES, b"\0"))
    write_file(output, quote)
    print_json({"file": str(output)}) if as_json else say(f"{len(quote)} bytes in {output}")


@app.command()
def show(
    file: File,
    event_log: EventLog = None,
    dstack: Dstack = False,
    as_json: AsJson = False,
) -> None:
    """Show the content of a quote. Nothing is verified: use `quote verify` for that."""
    quote = parse_quote_untrusted(read_quote(file))
    value = _shown(quote)
    if event_log is not None:
        evidence = _event_log(event_log, dstack=dstack)
        events = evidence if isinstance(evidence, tuple) else parse_event_log_untrusted(evidence)
        if not isinstance(quote.body, TDReport):
            raise ConfigError("only a TD quote has registers that an event log could explain")
        rtmrs = quote.body.rtmrs
        value["event_log"] = event_log_to_json_value(events, compare(events, (*rtmrs,)))
    if as_json:
        print_json(value)
        return
    say("what these bytes claim; ", ("nothing here is verified", STRONG))
    pairs(_rows({k: v for k, v in value.items() if k != "event_log"}))
    if "event_log" in value:
        _print_event_log(value["event_log"])


@app.command()
def verify(
    file: File,
    at: Annotated[
        str | None, typer.Option(help="Time of the verification: Unix seconds or ISO 8601; default: now.")
    ] = None,
    collateral: Annotated[Path | None, typer.Option(help="DCAP collateral, JSON.")] = None,
    trust_root: Annotated[
        str | None, typer.Option(help="`intel`, or the file of another root; default: the document's.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Appraisal policy, TOML; default: the document's.")
    ] = None,
    group_document: Annotated[
        Path | None, typer.Option(help="Group document: gives policy, root and MRCONFIGID.")
    ] = None,
    event_log: EventLog = None,
    dstack: Dstack = False,
    report_data: Annotated[
        str | None, typer.Option(help="REPORTDATA that the quote must carry: all 64 bytes, hex.")
    ] = None,
    nonce: Annotated[
        str | None, typer.Option(help="REPORTDATA must be this, hex, zero-padded to 64 bytes.")
    ] = None,
    pck_chain: Annotated[Path | None, typer.Option(help="PEM, for quotes without a chain.")] = None,
    enforced_since: Annotated[
        str | None,
        typer.Option(help="Since when the collateral is enforced, for a grace period."),
    ] = None,
    form: Annotated[
        Form, typer.Option("--format", help="`eat`: claims for a relying party's program (EAR).")
    ] = Form.TEXT,
    sign_key: Annotated[
        Path | None, typer.Option(help="With --format eat: a JWT, signed with this P-256 key, PEM.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a quote to its trust root and appraise it. Exit code 0 accepted, 1 refused, 3 undecided."""
    if sign_key is not None and form is not Form.EAT:
        raise ConfigError("--sign-key goes with --format eat")
    document = None if group_document is None else load_group_document(group_document)
    rules = None if document is None else document.policy
    report = verify_report(
        read_quote(file),
        None if collateral is None else read_file(collateral, what="collateral"),
        root=load_trust_root(trust_root or "intel") if document is None or trust_root else document.root,
        policy=rules if policy is None else load_policy(policy, tickets=False),
        own_config_id=None if document is None else document.mrconfigid,
        now=datetime.now(UTC) if at is None else parse_time(at),
        report_data=_expected_report_data(report_data, nonce),
        event_log=None if event_log is None else _event_log(event_log, dstack=dstack),
        pck_chain=None if pck_chain is None else read_file(pck_chain, what="PCK chain"),
        enforcement=(
            UNKNOWN_ENFORCEMENT if enforced_since is None else EnforcedSince(parse_time(enforced_since))
        ),
    )
    report.value["any_td"] = policy is None and rules is None
    if form is Form.EAT:
        claims = ear_claims(
            report, nonce=None if nonce is None else bytes.fromhex(nonce), issued_at=datetime.now(UTC)
        )
        print_json(claims) if sign_key is None else say(signed(claims, sign_key))
    elif as_json or form is Form.JSON:
        print_json(report.value)
    else:
        _print_verdict(report.value, report.exit_code)
    raise typer.Exit(report.exit_code)


def _shown(quote: Quote) -> dict[str, Any]:
    value: dict[str, Any] = {"quote_version": quote.header.version}
    if isinstance(quote.body, TDReport):
        value |= body_value(quote.body)
    value["certification_type"] = quote.signature_data.certification_type
    value["pck"] = _claimed_pck(quote)
    return value


def _claimed_pck(quote: Quote) -> dict[str, Any] | None:
    """Return the platform's values in the quote's PCK certificate; None if the quote has no certificate."""
    data = quote.signature_data
    if data.certification_type != CERTIFICATION_PCK_CHAIN:
        return None
    try:
        blocks = split_pem_untrusted(data.certification_data, role="pck", count_max=4)
        leaf = load_certificate_untrusted(blocks[0], role="pck") if blocks else None
        if leaf is None or leaf.sgx_extension is None:
            return None
        extension = parse_pck_extension_untrusted(leaf.sgx_extension)
    except AttestationError:
        return None
    certificate = leaf.parsed
    return {
        "fmspc": extension.fmspc.hex(),
        "ca": certificate.issuer.rfc4514_string(),
        "ppid": extension.ppid.hex(),
        "pceid": extension.pce_id.hex(),
        "serial": f"{certificate.serial_number:x}",
        "valid_from": timestamp(certificate.not_valid_before_utc),
        "valid_until": timestamp(certificate.not_valid_after_utc),
    }


def _event_log(path: Path, *, dstack: bool) -> EventLogEvidence:
    data = read_file(path, what="event log")
    return import_dstack_log_untrusted(data) if dstack else data


def _expected_report_data(report_data: str | None, nonce: str | None) -> bytes | ReportData:
    if report_data is not None and nonce is not None:
        raise ConfigError("--report-data or --nonce, not both")
    if report_data is not None:
        data = _hex(report_data, what="--report-data")
        if len(data) != REPORT_DATA_BYTES:
            raise ConfigError(
                f"--report-data has {len(data)} bytes, not {REPORT_DATA_BYTES}; a shorter one: --nonce"
            )
        return data
    if nonce is None:
        return REPORT_DATA_UNCHECKED
    data = _hex(nonce, what="--nonce")
    if not 0 < len(data) <= REPORT_DATA_BYTES:
        raise ConfigError(f"--nonce has {len(data)} bytes, and REPORTDATA {REPORT_DATA_BYTES}")
    return data.ljust(REPORT_DATA_BYTES, b"\0")


def _hex(text: str, *, what: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as exc:
        raise ConfigError(f"{what} is not hex") from exc


def _rows(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            rows += _rows(item, f"{name}.")
        elif isinstance(item, list):
            rows.append((name, ", ".join(str(part) for part in item) or "-"))
        else:
            rows.append((name, "-" if item is None else str(item)))
    return rows


def _print_verdict(value: dict[str, Any], exit_code: int) -> None:
    if value["accepted"]:
        say(("accepted", GOOD), f", TCB status {value['status']}")
        if value.get("any_td"):
            say((ANY_TD, CAUTION))
    else:
        say((word_of(exit_code), BAD), f": {value['message']} ({value['reason']})")
        for finding in value["findings"][1:]:
            say(f"and: {finding['message']} ({finding['reason']})")
        if value["reason"] == "collateral-missing":
            say("hint: bondstone collateral fetch --quote FILE -o collateral.json, then --collateral FILE")
    for line in _shortfall_lines(value["tcb"]):
        say(line)
    for advisory in value["advisory_ids"]:
        say(f"advisory {advisory}: {ADVISORIES}{advisory.lower()}.html")
    if value["mock"]:
        say(("the trust root is not Intel's: this proves nothing about hardware", CAUTION))
    hidden = ("accepted", "message", "findings", "event_log", "any_td")
    pairs(_rows({k: v for k, v in value.items() if k not in hidden}))
    if value["accepted"]:
        say_unchecked(value["not_checked"])


def _shortfall_lines(tcb: dict[str, Any] | None) -> list[str]:
    """Return, for each part that could be better, what the nearest better level needs."""
    if tcb is None:
        return []
    lines = []
    for when in ("launch", "current"):
        evaluation = tcb[when] or {}
        for name in ("platform", "module", "qe"):
            part = evaluation.get(name)
            if part is None or part["next_better"] is None:
                continue
            better = part["next_better"]
            needs = ", ".join(_need(item) for item in better["shortfalls"])
            lines.append(
                f"{when}, {name}: {part['status']} since {part['tcb_date'][:10]}; "
                f"{better['status']} ({better['tcb_date'][:10]}) needs {needs}"
            )
    return lines


def _need(item: dict[str, Any]) -> str:
    label = f" ({item['label']})" if item["label"] else ""
    return f"{item['component']}{label} {item['needed']}, is {item['actual']}"


def _print_event_log(log: dict[str, Any]) -> None:
    table(
        ("register", "state", "events", "quoted", "replayed"),
        (
            (item["register"], item["state"], str(item["events"]), item["quoted"], item["replayed"])
            for item in log["registers"]
        ),
        title="registers",
    )
    table(
        ("register", "type", "digest", "coverage", "data"),
        (
            (
                item["register"],
                item["type"],
                item["digest"][:16] + "…",
                item["coverage"],
                item["name"] or item["text"] or f"{len(item['data']) // 2} bytes",
            )
            for item in log["events"]
        ),
        title="events",
    )
