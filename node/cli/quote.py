"""``bondstone quote get|show|verify``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from attestation.enforcement import EnforcedSince
from attestation.eventlog import compare
from attestation.eventlog_dstack import import_dstack_log_untrusted
from attestation.eventlog_evidence import event_log_to_json_value, parse_event_log_untrusted
from attestation.policy import UNKNOWN_ENFORCEMENT
from attestation.quote import QUOTE_BYTES_MAX, Quote, TDReport, parse_quote_untrusted
from attestation.report import verify_report
from attestation.result import body_value
from node.cli.common import load_policy, load_trust_root, parse_time, read_file, write_file
from node.cli.exits import word_of
from node.cli.output import BAD, CAUTION, GOOD, STRONG, pairs, print_json, say, say_unchecked, table
from node.config import load_node
from node.errors import ConfigError

app = typer.Typer()
File = Annotated[Path, typer.Argument(help="The quote's bytes.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
EventLog = Annotated[Path | None, typer.Option(help="The attester's event log: CCEL bytes or our CBOR form.")]


@app.command()
def get(
    config: Annotated[Path, typer.Option(help="A node file: says which TD, real or mock.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the quote.")],
    report_data: Annotated[str, typer.Option(help="REPORTDATA, up to 64 bytes of hex, zero-padded.")] = "",
) -> None:
    """Take a quote from the TD that this runs in."""
    from node.trust import attester_of

    try:
        data = bytes.fromhex(report_data)
    except ValueError as exc:
        raise ConfigError("--report-data is not hex") from exc
    if len(data) > 64:
        raise ConfigError(f"--report-data has {len(data)} bytes, at most 64")
    files = load_node(config)
    quote = attester_of(files.document, files.config).quote(data.ljust(64, b"\0"))
    write_file(output, quote)
    say(f"{len(quote)} bytes in {output}")


@app.command()
def show(
    file: File,
    event_log: EventLog = None,
    dstack: Annotated[bool, typer.Option(help="The event log is dstack's JSON.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a quote says. Nothing is verified: use `quote verify` for that."""
    quote = parse_quote_untrusted(read_file(file, what="quote", bytes_max=QUOTE_BYTES_MAX))
    value = _shown(quote)
    if event_log is not None:
        data = read_file(event_log, what="event log")
        events = import_dstack_log_untrusted(data) if dstack else parse_event_log_untrusted(data)
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
    at: Annotated[str, typer.Option(help="When: Unix seconds or ISO 8601.")],
    collateral: Annotated[Path | None, typer.Option(help="DCAP collateral, JSON.")] = None,
    trust_root: Annotated[str, typer.Option(help="`intel`, or the file of another root.")] = "intel",
    policy: Annotated[Path | None, typer.Option(help="Appraisal policy, TOML.")] = None,
    event_log: EventLog = None,
    pck_chain: Annotated[Path | None, typer.Option(help="PEM, for quotes without a chain.")] = None,
    enforced_since: Annotated[
        str | None,
        typer.Option(help="Since when it is enforced, for a grace period."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a quote to its trust root and appraise it. Exit code 0 accepted, 1 refused, 3 undecided."""
    report = verify_report(
        read_file(file, what="quote"),
        None if collateral is None else read_file(collateral, what="collateral"),
        root=load_trust_root(trust_root),
        policy=None if policy is None else load_policy(policy),
        now=parse_time(at),
        event_log=None if event_log is None else read_file(event_log, what="event log"),
        pck_chain=None if pck_chain is None else read_file(pck_chain, what="PCK chain"),
        enforcement=(
            UNKNOWN_ENFORCEMENT if enforced_since is None else EnforcedSince(parse_time(enforced_since))
        ),
    )
    if as_json:
        print_json(report.value)
    else:
        _print_verdict(report.value, report.exit_code)
    raise typer.Exit(report.exit_code)


def _shown(quote: Quote) -> dict[str, Any]:
    value: dict[str, Any] = {"quote_version": quote.header.version}
    if isinstance(quote.body, TDReport):
        value |= body_value(quote.body)
    value["certification_type"] = quote.signature_data.certification_type
    return value


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
    else:
        say((word_of(exit_code), BAD), f": {value['message']} ({value['reason']})")
        for finding in value["findings"][1:]:
            say(f"and: {finding['message']} ({finding['reason']})")
        if value["reason"] == "collateral-missing":
            say("hint: bondstone collateral fetch --quote FILE -o collateral.json, then --collateral FILE")
    for line in _shortfall_lines(value["tcb"]):
        say(line)
    if value["mock"]:
        say(("the trust root is not Intel's: this proves nothing about hardware", CAUTION))
    hidden = ("accepted", "message", "findings", "event_log")
    pairs(_rows({k: v for k, v in value.items() if k not in hidden}))
    if value["accepted"]:
        say_unchecked(value["not_checked"])


def _shortfall_lines(tcb: dict[str, Any] | None) -> list[str]:
    """Say, for each part that could be better, what the nearest better level needs."""
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
