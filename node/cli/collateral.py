"""``bondstone collateral fetch|show|verify|compare|numbers``."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from attestation.collateral.client.assembly import Collateral, require_genuine_pck_crl
from attestation.collateral.client.collateral_client import CollateralClient
from attestation.collateral.client.platform import platform_of_quote_untrusted
from attestation.collateral.client.requests import INTEL_PCS, Platform, Source, TcbUpdate, UpdateMode
from attestation.collateral.client.session import open_collateral_client, proxy_address
from attestation.collateral.endorsements import COLLATERAL_BYTES_MAX, Endorsements, verify_endorsements
from attestation.collateral.freshness import FreshnessState
from attestation.collateral.tcb_info import (
    QeIdentity,
    TcbInfo,
    parse_qe_identity_untrusted,
    parse_tcb_info_untrusted,
)
from attestation.errors import AttestationError, MalformedError
from attestation.files import FileError
from attestation.quote.codec import parse_quote_untrusted
from attestation.values import timestamp
from attestation.verdict import VerificationReport, verify_report
from attestation.x509.crl import RevocationList, parse_crl_untrusted
from attestation.x509.trust import TrustRoot
from node.cli.exits import word_of
from node.cli.inputs import parse_time, write_file
from node.cli.output import pairs, print_json, say, table
from node.cli.quote_file import read_quote
from node.client.inputs import load_policy, load_trust_root, read_file
from node.errors import ConfigError

app = typer.Typer()
File = Annotated[Path, typer.Argument(help="Collateral, as QuoteCollateralV3 JSON.")]
Quote = Annotated[Path | None, typer.Option(help="A quote; it names the platform.")]
Fmspc = Annotated[str | None, typer.Option(help="The platform, 12 hex digits, without a quote.")]
Ca = Annotated[str, typer.Option(help="Its PCK CA: platform or processor.")]
Pccs = Annotated[
    list[str] | None, typer.Option(help="Ask this PCCS (repeatable, in order); default: Intel's PCS.")
]
TlsCa = Annotated[Path | None, typer.Option(help="PEM: CAs whose TLS certificates to trust as well.")]
TlsRoots = Annotated[
    Path | None, typer.Option(help="PEM: CAs whose TLS certificates to trust instead of Mozilla's list.")
]
Proxy = Annotated[
    str | None, typer.Option(help="Proxy, http://HOST:PORT; the environment's proxy is not used.")
]
Root = Annotated[str, typer.Option(help="`intel`, or the file of another root.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """How to reach the sources: which certificates to trust, and through which proxy."""

    tls_ca: Path | None
    tls_roots: Path | None
    proxy: str | None


@app.command()
def fetch(
    *,
    quote: Quote = None,
    fmspc: Fmspc = None,
    ca: Ca = "platform",
    pccs: Pccs = None,
    update: Annotated[str, typer.Option(help="standard, early, or a tcbEvaluationDataNumber.")] = "standard",
    trust_root: Root = "intel",
    tls_ca: TlsCa = None,
    tls_roots: TlsRoots = None,
    proxy: Proxy = None,
    cache: Annotated[
        Path | None, typer.Option(help="Keep verified collateral there, and use it while it is fresh.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the collateral there, print a summary.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the collateral of a platform, verify it, and print or write it.

    Exit code 0 fetched and verified, 1 not genuine, 3 not available now.
    """
    collateral = asyncio.run(
        _fetch(
            _platform(quote, fmspc, ca),
            sources=_sources(pccs),
            root=load_trust_root(trust_root),
            update=_update(update),
            net=_net(tls_ca, tls_roots, proxy),
            cache=cache,
        )
    )
    data = collateral.endorsements.to_json()
    if output is None:
        say(data.decode())
        return
    write_file(output, data)
    value = {
        "verified": True,
        "mock": collateral.verified.root.mock,
        "source": collateral.source,
        "output": str(output),
        **_summary(collateral.endorsements),
    }
    _print(value, as_json=as_json, title=f"verified, from {collateral.source}")


@app.command()
def show(file: File, as_json: AsJson = False) -> None:
    """Show the content of collateral. Nothing is verified: use `collateral verify` for that."""
    endorsements = _read(file)
    _print(
        {"verified": False, **_summary(endorsements)},
        as_json=as_json,
        title="what these bytes claim; nothing here is verified",
    )


@app.command()
def verify(
    file: File,
    at: Annotated[
        str | None, typer.Option(help="Time of the verification: Unix seconds or ISO 8601; default: now.")
    ] = None,
    trust_root: Root = "intel",
    as_json: AsJson = False,
) -> None:
    """Verify collateral to its trust root, at one time. Exit code 0 genuine and current, 1 not.

    The PCK CRL's signature is checked with the CA that the collateral names; a quote's own CA decides
    in `quote verify`.
    """
    endorsements = _read(file)
    root = load_trust_root(trust_root)
    now = datetime.now(UTC) if at is None else parse_time(at)
    value: dict[str, Any] = {"at": timestamp(now), "mock": root.mock}
    try:
        _verify(endorsements, root, now)
    except AttestationError as exc:
        value |= {"verified": False, "reason": exc.reason, "message": exc.message, "values": exc.values}
        if as_json:
            print_json(value)
        else:
            say(f"refused: {exc}")
        raise typer.Exit(1) from exc
    value |= {"verified": True, "reason": None, **_summary(endorsements)}
    kind = "mock collateral, proves nothing about hardware" if root.mock else "collateral of Intel's"
    _print(value, as_json=as_json, title=f"genuine and current at {timestamp(now)}: {kind}")


@app.command()
def numbers(
    *,
    quote: Quote = None,
    fmspc: Fmspc = None,
    ca: Ca = "platform",
    pccs: Pccs = None,
    trust_root: Root = "intel",
    tls_ca: TlsCa = None,
    tls_roots: TlsRoots = None,
    proxy: Proxy = None,
    as_json: AsJson = False,
) -> None:
    """List the published tcbEvaluationDataNumbers, verified: the possible values of `fetch --update`.

    With a platform, also show which of them `standard` and `early` give it now, and whether that number is
    still published. Exit code 0 fetched and verified, 1 not genuine, 3 not available now.
    """
    platform = None if quote is None and fmspc is None else _platform(quote, fmspc, ca)
    value = asyncio.run(
        _numbers(
            platform,
            sources=_sources(pccs),
            root=load_trust_root(trust_root),
            net=_net(tls_ca, tls_roots, proxy),
        )
    )
    _print(value, as_json=as_json, title=f"verified, from {value['source']}")


@app.command()
def compare(
    quote: Annotated[Path, typer.Argument(help="The quote: bytes, hex or base64.")],
    *,
    pccs: Pccs = None,
    policy: Annotated[
        Path | None, typer.Option(help="Appraisal policy, TOML; default: the built-in one.")
    ] = None,
    trust_root: Root = "intel",
    tls_ca: TlsCa = None,
    tls_roots: TlsRoots = None,
    proxy: Proxy = None,
    as_json: AsJson = False,
) -> None:
    """Judge a quote under the standard and the early set. The early set shows its verdict of the future.

    Exit code 0 accepted under both, 1 refused under one of them, 3 a set is not available now.
    """
    data = read_quote(quote)
    root = load_trust_root(trust_root)
    rules = None if policy is None else load_policy(policy, tickets=False)
    platform = platform_of_quote_untrusted(parse_quote_untrusted(data))
    net, sources = _net(tls_ca, tls_roots, proxy), _sources(pccs)
    now = datetime.now(UTC)
    reports = {}
    for update in UpdateMode:
        collateral = asyncio.run(
            _fetch(platform, sources=sources, root=root, update=update, net=net, cache=None)
        )
        reports[str(update)] = verify_report(
            data, collateral.endorsements.to_json(), root=root, policy=rules, now=now
        )
    if as_json:
        print_json({update: report.value for update, report in reports.items()})
    else:
        _print_comparison(reports)
    raise typer.Exit(max(report.exit_code for report in reports.values()))


def _print_comparison(reports: dict[str, VerificationReport]) -> None:
    rows = []
    for update, report in reports.items():
        value = report.value
        collateral = value["collateral"] or {}
        rows.append(
            (
                update,
                str(collateral.get("tcb_evaluation_data_number", "-")),
                word_of(report.exit_code),
                str(value["status"]),
                value["message"] or "-",
                ", ".join(value["advisory_ids"]) or "-",
            )
        )
    table(("set", "number", "verdict", "TCB status", "why", "advisories"), rows)


async def _numbers(
    platform: Platform | None, *, sources: tuple[Source, ...], root: TrustRoot, net: Net
) -> dict[str, Any]:
    async with _client(sources=sources, root=root, update=UpdateMode.STANDARD, net=net) as client:
        published = await client.evaluation_numbers()
    said = published.verified.numbers
    value: dict[str, Any] = {
        "verified": True,
        "mock": root.mock,
        "source": published.source,
        "issue_date": timestamp(said.issue_date),
        "next_update": timestamp(said.next_update),
        "numbers": [
            {
                "tcb_evaluation_data_number": entry.number,
                "recovery_event_date": timestamp(entry.recovery_event_date),
                "tcb_date": timestamp(entry.tcb_date),
            }
            for entry in said.numbers
        ],
    }
    if platform is None:
        return value
    for update in UpdateMode:
        async with _client(sources=sources, root=root, update=update, net=net) as client:
            verified = (await client.endorsements(platform)).verified
        value[str(update)] = {
            "tcb_info": verified.tcb_info.tcb_evaluation_data_number,
            "qe_identity": verified.qe_identity.tcb_evaluation_data_number,
            "published": verified.tcb_evaluation_data_number in said,
        }
    return value


@asynccontextmanager
async def _client(
    *,
    sources: tuple[Source, ...],
    root: TrustRoot,
    update: TcbUpdate,
    net: Net,
    cache: Path | None = None,
) -> AsyncIterator[CollateralClient]:
    """Yield a client of the sources.

    Raises:
        ConfigError: the TLS certificates cannot be used.
    """
    try:
        async with open_collateral_client(
            sources=sources,
            root=root,
            update=update,
            cache_directory=cache,
            tls_ca=net.tls_ca,
            tls_roots=net.tls_roots,
            proxy=net.proxy,
            seen=FreshnessState(),
        ) as client:
            yield client
    except FileError as exc:
        raise ConfigError(f"the TLS certificates: {exc}") from exc


async def _fetch(
    platform: Platform,
    *,
    sources: tuple[Source, ...],
    root: TrustRoot,
    update: TcbUpdate,
    net: Net,
    cache: Path | None,
) -> Collateral:
    async with _client(sources=sources, root=root, update=update, net=net, cache=cache) as client:
        return await client.endorsements(platform)


def _platform(quote: Path | None, fmspc: str | None, ca: str) -> Platform:
    if (quote is None) == (fmspc is None):
        raise ConfigError("which platform? hint: give either --quote FILE or --fmspc HEX")
    if quote is not None:
        return platform_of_quote_untrusted(parse_quote_untrusted(read_quote(quote)))
    assert fmspc is not None
    try:
        return Platform.from_text_untrusted(fmspc, ca)
    except MalformedError as exc:
        raise ConfigError(exc.message) from exc


def _sources(urls: list[str] | None) -> tuple[Source, ...]:
    try:
        return tuple(Source.pccs(url) for url in urls or ()) or (INTEL_PCS,)
    except ValueError as exc:
        raise ConfigError(f"--pccs: {exc}") from exc


def _net(tls_ca: Path | None, tls_roots: Path | None, proxy: str | None) -> Net:
    try:
        return Net(tls_ca=tls_ca, tls_roots=tls_roots, proxy=None if proxy is None else proxy_address(proxy))
    except ValueError as exc:
        raise ConfigError(f"--proxy: {exc}") from exc


def _update(text: str) -> TcbUpdate:
    if text.isascii() and text.isdigit() and 0 < int(text) < 2**32:
        return int(text)
    try:
        return UpdateMode(text)
    except ValueError as exc:
        raise ConfigError("--update is standard, early, or a tcbEvaluationDataNumber such as 19") from exc


def _read(file: Path) -> Endorsements:
    data = read_file(file, what="collateral", bytes_max=COLLATERAL_BYTES_MAX)
    return Endorsements.from_json_untrusted(data)


def _verify(endorsements: Endorsements, root: TrustRoot, now: datetime) -> None:
    verified = verify_endorsements(endorsements, root=root, now=now)
    require_genuine_pck_crl(endorsements, verified)


def _summary(endorsements: Endorsements) -> dict[str, Any]:
    """Return a summary of a set, from its own fields.

    Raises:
        MalformedError: a part cannot be parsed.
    """
    tcb_info = parse_tcb_info_untrusted(endorsements.tcb_info)
    qe_identity = parse_qe_identity_untrusted(endorsements.qe_identity)
    root_crl = parse_crl_untrusted(endorsements.root_ca_crl, role="root-crl")
    pck_crl = parse_crl_untrusted(endorsements.pck_crl, role="pck-crl")
    newest = tcb_info.tcb_levels[0]
    return {
        "digest": endorsements.digest.hex(),
        "fmspc": tcb_info.fmspc.hex(),
        "pce_id": tcb_info.pce_id.hex(),
        "tcb_evaluation_data_number": min(
            tcb_info.tcb_evaluation_data_number, qe_identity.tcb_evaluation_data_number
        ),
        "valid_from": timestamp(
            max(tcb_info.issue_date, qe_identity.issue_date, root_crl.this_update, pck_crl.this_update)
        ),
        "valid_until": timestamp(
            min(tcb_info.next_update, qe_identity.next_update, root_crl.next_update, pck_crl.next_update)
        ),
        "tcb_info": {
            **_document(tcb_info),
            "levels": len(tcb_info.tcb_levels),
            "newest_level": {
                "status": str(newest.status),
                "tcb_date": timestamp(newest.tcb_date),
                "sgx_components": list(newest.sgx_components),
                "pce_svn": newest.pce_svn,
                "tdx_components": list(newest.tdx_components),
            },
            "tdx_modules": [module.id for module in tcb_info.tdx_module_identities],
        },
        "qe_identity": {
            **_document(qe_identity),
            "mr_signer": qe_identity.mr_signer.hex(),
            "isv_prod_id": qe_identity.isv_prod_id,
        },
        "root_crl": _crl(root_crl),
        "pck_crl": _crl(pck_crl),
    }


def _document(document: TcbInfo | QeIdentity) -> dict[str, Any]:
    return {
        "tcb_evaluation_data_number": document.tcb_evaluation_data_number,
        "issue_date": timestamp(document.issue_date),
        "next_update": timestamp(document.next_update),
    }


def _crl(crl: RevocationList) -> dict[str, Any]:
    return {
        "issuer": crl.parsed.issuer.rfc4514_string(),
        "this_update": timestamp(crl.this_update),
        "next_update": timestamp(crl.next_update),
        "revoked": len(crl.parsed),
    }


def _print(value: dict[str, Any], *, as_json: bool, title: str) -> None:
    if as_json:
        print_json(value)
        return
    rows = []
    for name, item in value.items():
        for inner, content in item.items() if isinstance(item, dict) else [("", item)]:
            text = content if isinstance(content, str) else json.dumps(content)
            rows.append((f"{name}.{inner}" if inner else name, text))
    pairs(rows, title=title)
