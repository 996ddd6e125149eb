"""``bondstone image``: build, measure, run and verify TD images.

Measuring is ``enclave.image``; building and running are the scripts of ``tdx-images/`` in a checkout.
"""

import base64
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from msgspec import UNSET

from attestation.eventlog.ccel import parse_ccel_untrusted
from attestation.eventlog.events import Event, replay
from attestation.eventlog.verify import parse_event_log_untrusted
from attestation.quote.codec import TDReport, parse_quote_untrusted
from enclave.image.config import (
    Profile,
    encode_config_disk,
    encode_guest_config,
    parse_guest_config_untrusted,
)
from enclave.image.console import CONSOLE_BYTES_MAX, boot_log_kinds_untrusted, boot_log_untrusted
from enclave.image.errors import ImageError, MeasurementMismatchError
from enclave.image.folder import BuiltImage, load_image
from enclave.image.fragment import policy_fragment
from enclave.image.measurements import Measurements
from enclave.image.predict import HostShape, KernelLoading
from enclave.image.rtmr import Boot
from enclave.image.rtmr0 import AcpiBlobs
from enclave.image.tpm_log import parse_tpm_log_untrusted
from enclave.image.verify import first_difference, require_registers
from node.cli.exits import YES
from node.cli.host_checks import HostAnswer, HostProbe, examine, exit_code
from node.cli.inputs import write_file
from node.cli.output import BAD, CAUTION, GOOD, print_json, say, say_lines, table
from node.client.inputs import read_file
from node.errors import ConfigError
from node.guest import files_of_guest
from node.machines.loader import BUILT_IN_ONLY, Machines
from node.process_events import (
    ConsoleLine,
    GuestEnded,
    GuestsEvent,
    GuestsPrepared,
    GuestStarted,
    read_guests_event,
)

SCRIPTS: Final = Path(__file__).resolve().parents[2] / "tdx-images"
DEFAULT_OUT: Final = SCRIPTS / "out"
RUN_DIRECTORY: Final = Path(".bondstone/images")
MIB: Final = 1 << 20
_LINE_FRAME: Final = {"time", "source", "event", "name"}

app = typer.Typer()

Folder = Annotated[Path, typer.Argument(help="The image's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Emulated = Annotated[
    bool, typer.Option(help="Booted by QEMU before 10 without TDX, which patches the kernel.")
]
Memory = Annotated[int, typer.Option(help="The guest's memory in MiB; matters only with --emulated.")]
BootOption = Annotated[Boot, typer.Option(help="How the image is started.")]


@app.callback()
def image() -> None:
    """Build, measure, run and verify TD images."""


@app.command()
def build(
    out: Annotated[Path | None, typer.Option(help="Folder for the image.")] = None,
    profile: Annotated[
        Profile, typer.Option(help="Every profile has measurements of its own.")
    ] = Profile.PROD,
    lock: Annotated[bool, typer.Option("--lock", help="First lock the newest inputs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build an image from the locked inputs. Needs no root."""
    target = out or DEFAULT_OUT / profile.value
    if lock:
        _script("build.py", "lock")
    _script("build.py", "fetch")
    _script("build.py", "build", "--profile", profile.value, "--out", str(target))
    built = load_image(target)
    _show(built.published(), built, as_json=as_json)


@app.command()
def measure(
    folder: Folder,
    boot: BootOption = Boot.DIRECT,
    policy: Annotated[
        bool, typer.Option("--policy", help="Print the fragment of a policy file only.")
    ] = False,
    group_document: Annotated[
        bool, typer.Option("--group-document", help="Print the fragment of a group document only.")
    ] = False,
    allow_debug: Annotated[bool, typer.Option(help="Make a policy for a debug image too.")] = False,
    allow_emulation: Annotated[
        bool, typer.Option(help="Make a policy for an image of the emulation profile too.")
    ] = False,
    waive_rtmr0: Annotated[
        bool,
        typer.Option(
            "--waive-rtmr0",
            help="Make a policy without RTMR[0]: the host's ACPI code can then touch the guest's memory.",
        ),
    ] = False,
    acpi: Annotated[
        Path | None,
        typer.Option(
            help="Adds RTMR[0] of a shape: a folder with its table-loader, rsdp and tables, or the console "
            "of a debug guest of that shape."
        ),
    ] = None,
    memory: Memory = 2048,
    out: Annotated[Path | None, typer.Option(help="Where to write measurements.json.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the image's files as they are now, and write measurements.json."""
    built = load_image(folder)
    measured = built.measure(host=HostShape(memory_bytes=memory * MIB), acpi=_acpi(acpi))
    value = measured.to_value()
    if policy or group_document:
        _require_one_choice(acpi, waive_rtmr0=waive_rtmr0)
        say_lines(
            policy_fragment(
                value,
                boot=boot,
                waive_rtmr0=waive_rtmr0,
                in_group_document=group_document,
                allowed={
                    Profile.PROD,
                    *([Profile.DEBUG] if allow_debug else []),
                    *([Profile.EMULATION] if allow_emulation else []),
                },
            )
        )
        return
    write_file(out or folder / "measurements.json", measured.to_json())
    _show(value, built, as_json=as_json)


@app.command()
def config(
    files: Annotated[list[Path], typer.Argument(help="node.toml, group.toml and what node.toml names.")],
    out: Annotated[Path, typer.Option(help="Where to write the document.")],
    address: Annotated[list[str] | None, typer.Option(help="Static address: eth1=10.0.0.1/24.")] = None,
    disk: Annotated[bool, typer.Option("--disk", help="Write a configuration disk.")] = False,
    image: Annotated[
        Path | None,
        typer.Option(help="The image that it is for; it gives the profile and the state machines."),
    ] = None,
    profile: Annotated[
        Profile | None, typer.Option(help="The profile of the image that it is for; prod by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Pack a guest's configuration into one document, and print the MRCONFIGID that goes with it.

    What the guest or its node would refuse is refused here.
    """
    profile, machines = _image_of(image, profile)
    pairs = [item.split("=", 1) for item in address or []]
    if any(len(pair) != 2 for pair in pairs):
        raise ConfigError("--address takes INTERFACE=ADDRESS/PREFIX")
    packed = encode_guest_config(_named(files), addresses=_named_addresses(pairs))
    parsed = parse_guest_config_untrusted(packed, profile=profile)
    document = files_of_guest(parsed, profile=profile, machines=machines).document
    write_file(out, encode_config_disk(packed) if disk else packed)
    encoded = base64.b64encode(document.mrconfigid).decode()
    if as_json:
        print_json(
            {
                "file": str(out),
                "group_id": document.group_id.hex(),
                "mrconfigid": document.mrconfigid.hex(),
                "mrconfigid_base64": encoded,
            }
        )
    else:
        say(str(out))
        say(f"GroupId    {document.group_id.hex()}")
        say(f"MRCONFIGID {document.mrconfigid.hex()}")
        say(f"for QEMU   {encoded}")


def _image_of(image: Path | None, profile: Profile | None) -> tuple[Profile, Machines]:
    if image is None:
        return profile or Profile.PROD, BUILT_IN_ONLY
    built = load_image(image)
    if profile not in {None, built.profile}:
        raise ConfigError(f"{image} is an image of the profile {built.profile.value}: leave out --profile")
    return built.profile, Machines(named=frozenset(built.machines))


def _named(files: Sequence[Path]) -> dict[str, str]:
    named: dict[str, str] = {}
    for file in files:
        if file.name in named:
            raise ConfigError(f"two files are named {file.name}: a configuration has one folder")
        named[file.name] = _text(file)
    return named


def _named_addresses(pairs: Sequence[Sequence[str]]) -> dict[str, str]:
    named: dict[str, str] = {}
    for interface, address in pairs:
        if interface in named:
            raise ConfigError(f"--address names {interface} twice")
        named[interface] = address
    return named


@app.command()
def run(
    folder: Annotated[list[Path], typer.Argument(help="The image; or one image for each guest.")],
    count: Annotated[int, typer.Option(help="How many guests of one image.")] = 3,
    directory: Annotated[
        Path, typer.Option("--dir", help="Authority, policy, configurations, consoles.")
    ] = RUN_DIRECTORY,
    api_port: Annotated[int, typer.Option(help="Guest i answers on this port + i.")] = 8440,
    memory: Annotated[int, typer.Option(help="MiB for each guest.")] = 512,
    allow_debug: Annotated[bool, typer.Option(help="Run a debug image.")] = False,
    await_key: Annotated[
        bool,
        typer.Option(help="Let the guests wait for `bondstone provision`; otherwise the key is derived."),
    ] = False,
    td: Annotated[bool, typer.Option("--td", help="One real TD on this host; needs --config.")] = False,
    config: Annotated[Path | None, typer.Option(help="Configuration document of the TD.")] = None,
    bridge: Annotated[
        str | None,
        typer.Option(help="With --td: this host's bridge; without it the TD reaches nothing outside."),
    ] = None,
    print_command: Annotated[
        bool, typer.Option("--print", help="With --td: print the QEMU command only.")
    ] = False,
    libvirt: Annotated[
        bool, typer.Option("--libvirt", help="With --td: print a libvirt domain only.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON event a line on stdout.")] = False,
) -> None:
    """Run guests of an image until Ctrl-C: emulated as a group of mock TDs, or one real TD."""
    arguments = ["--dir", str(directory), "--api-port", str(api_port), "--memory", str(memory)]
    for each in folder:
        arguments += ["--image", str(each)]
    arguments += ["--count", str(count)] if len(folder) == 1 and not td else []
    arguments += ["--allow-debug"] if allow_debug else []
    arguments += ["--await-key"] if await_key else []
    arguments += ["--td"] if td else []
    arguments += ["--config", str(config)] if config is not None else []
    arguments += ["--bridge", bridge] if bridge is not None else []
    arguments += ["--print"] if print_command else []
    arguments += ["--libvirt"] if libvirt else []
    if print_command or libvirt or as_json:
        _script("run.py", *arguments, to_stdout=True)
        return
    _follow(arguments)


@app.command()
def doctor(
    bridge: Annotated[str | None, typer.Option(help="The bridge that the TDs shall be on.")] = None,
    collateral: Annotated[
        str | None, typer.Option(help="https URL of the PCCS or PCS that the nodes use.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show whether this host is ready to run TDs, and what to do. Exit code 0 ready, 1 not, 3 undecided."""
    rows = examine(HostProbe(), bridge=bridge, collateral=collateral)
    code = exit_code(rows)
    if as_json:
        checks = [
            {"name": row.name, "state": row.state.value, "found": row.found, "todo": row.todo} for row in rows
        ]
        print_json({"ready": code == YES, "checks": checks})
    else:
        style = {HostAnswer.OK: GOOD, HostAnswer.NOT_OK: BAD, HostAnswer.UNKNOWN: CAUTION}
        table(
            ("check", "state", "found", "to do"),
            ((row.name, (row.state.value, style[row.state]), row.found, row.todo) for row in rows),
        )
    raise typer.Exit(code)


@app.command()
def gcp(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Where to write the archive: a .tar.gz.")],
) -> None:
    """Pack an image's disk as Google Cloud imports it; its measurements stay the same."""
    _script("build.py", "gcp", "--image", str(folder), "--out", str(out))
    say(str(out))


@app.command()
def verify(
    folder: Folder,
    boot: BootOption = Boot.DIRECT,
    ccel: Annotated[Path | None, typer.Option(help="/sys/firmware/acpi/tables/data/CCEL of a boot.")] = None,
    event_log: Annotated[
        Path | None, typer.Option(help="The log that `bondstone quote get URL --event-log` saved.")
    ] = None,
    tpm_log: Annotated[Path | None, typer.Option(help="binary_bios_measurements of a boot.")] = None,
    console: Annotated[
        Path | None, typer.Option(help="The guest's console output, which contains its log.")
    ] = None,
    quote: Annotated[
        Path | None, typer.Option(help="A quote of the same boot; verify it with `bondstone quote verify`.")
    ] = None,
    emulated: Emulated = False,
    memory: Memory = 2048,
    as_json: AsJson = False,
) -> None:
    """Compare the log of a boot with the image's expected measurements; name the first event that differs."""
    loading = KernelLoading.QEMU_PATCHED if emulated else KernelLoading.AS_IS
    host = HostShape(kernel_loading=loading, memory_bytes=memory * MIB)
    predicted = _boot_of(load_image(folder).measure(host=host), boot).events
    observed, of_a_td = _observed(ccel=ccel, event_log=event_log, tpm_log=tpm_log, console=console)
    difference = first_difference(predicted, observed, registers=(1, 2))
    rtmr0 = replay(observed)[0].hex() if of_a_td else None
    if difference is None and quote is not None:
        body = parse_quote_untrusted(read_file(quote, what="quote")).body
        if not isinstance(body, TDReport):
            raise ConfigError(f"{quote} is a quote of an SGX enclave, not of a TD")
        require_registers(predicted, body.rtmrs, registers=(1, 2))
        if rtmr0 is not None and body.rtmrs[0].hex() != rtmr0:
            raise MeasurementMismatchError(
                "register-differs", f"RTMR[0] is {body.rtmrs[0].hex()}, but the log leads to {rtmr0}"
            )
    # No prediction covers RTMR[0] here: the TD's log and its quote can only agree on what the host chose.
    unchecked = ["rtmr0"] if quote is not None else ["rtmr0", "quote"]
    if as_json:
        print_json(
            {
                "as_predicted": difference is None,
                "boot": boot.value,
                "events": len([item for item in predicted if item.register in (1, 2)]),
                "registers_checked": quote is not None,
                "not_checked": unchecked,
                "rtmr0": rtmr0,
                "first_difference": None if difference is None else str(difference),
            }
        )
    elif difference is None:
        say("RTMR[1] and RTMR[2]: every event is as predicted")
        say(f"not checked: {', '.join(unchecked)}")
        if rtmr0 is not None:
            say(f"RTMR[0] of this machine's shape, to pin if you trust this boot: {rtmr0}")
        if quote is None:
            say("the log alone is the host's claim: pass --quote to compare the registers too")
    if difference is not None:
        raise ImageError("event-differs", str(difference))


def _require_one_choice(acpi: Path | None, *, waive_rtmr0: bool) -> None:
    """Require that the user either has RTMR[0] predicted or waives it: an omission never leaves it out."""
    if acpi is None and not waive_rtmr0:
        raise ConfigError(
            "a policy needs RTMR[0] too: --acpi FILES predicts it for a machine's shape; --waive-rtmr0 "
            "leaves it out, and then the host's ACPI code can read and write the guest's memory"
        )
    if acpi is not None and waive_rtmr0:
        raise ConfigError("--acpi predicts RTMR[0], so there is nothing to waive: leave out --waive-rtmr0")


def _text(file: Path) -> str:
    try:
        return read_file(file, what="configuration file").decode()
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{file} is not UTF-8 text") from exc


def _boot_of(measured: Measurements, boot: Boot) -> Any:
    if boot not in measured.boots:
        raise ConfigError(f"the image cannot be started by {boot.value}")
    return measured.boots[boot]


def _observed(
    *, ccel: Path | None, event_log: Path | None, tpm_log: Path | None, console: Path | None
) -> tuple[Sequence[Event], bool]:
    """Return the events of a boot, and whether a TD logged them: a TPM's log has no RTMR[0]."""
    given = [path for path in (ccel, event_log, tpm_log, console) if path is not None]
    if len(given) != 1:
        raise ConfigError("which boot? hint: one of --ccel, --event-log, --tpm-log, --console")
    if ccel is not None:
        return parse_ccel_untrusted(read_file(ccel, what="event log")), True
    if event_log is not None:
        return parse_event_log_untrusted(read_file(event_log, what="event log")), True
    if tpm_log is not None:
        return parse_tpm_log_untrusted(read_file(tpm_log, what="event log")), False
    text = read_file(given[0], what="console output", bytes_max=CONSOLE_BYTES_MAX)
    if boot_log_kinds_untrusted(text) == {"tpm"}:
        return parse_tpm_log_untrusted(boot_log_untrusted(text, "tpm")), False
    return parse_ccel_untrusted(boot_log_untrusted(text, "ccel")), True


def _acpi(source: Path | None) -> AcpiBlobs | None:
    """Return the ACPI blobs of a shape from a folder, or from a debug guest's console."""
    if source is None:
        return None
    if source.is_dir():
        return AcpiBlobs(
            loader=read_file(source / "table-loader", what="ACPI table loader"),
            rsdp=read_file(source / "rsdp", what="ACPI RSDP"),
            tables=read_file(source / "tables", what="ACPI tables"),
        )
    console = read_file(source, what="console output", bytes_max=CONSOLE_BYTES_MAX)
    return AcpiBlobs(
        loader=boot_log_untrusted(console, "acpi-loader"),
        rsdp=boot_log_untrusted(console, "acpi-rsdp"),
        tables=boot_log_untrusted(console, "acpi-tables"),
    )


def _script(name: str, *arguments: str, to_stdout: bool = False) -> None:
    """Run a script of the checkout; its progress goes to stderr.

    Raises:
        ConfigError: this is not a checkout.
    """
    done = subprocess.run(
        _command(name, arguments), check=False, stdout=None if to_stdout else sys.stderr.fileno()
    )
    if done.returncode:
        raise typer.Exit(1)


def _command(name: str, arguments: Sequence[str]) -> list[str]:
    script = SCRIPTS / name
    if not script.is_file():
        raise ConfigError(
            f"{script} is missing: images are built and run from a checkout of bondstone, "
            "not from an installed package"
        )
    return [sys.executable, str(script), *arguments]


def _follow(arguments: Sequence[str]) -> None:
    """Run the guests and print their progress for people, until Ctrl-C."""
    if shutil.which("qemu-system-x86_64") is None:
        raise ConfigError("qemu-system-x86_64 is missing. hint: apt-get install qemu-system-x86")
    with subprocess.Popen(_command("run.py", arguments), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        previous = signal.signal(signal.SIGINT, lambda *_: process.terminate())
        for line in process.stdout:
            _print_event(read_guests_event(line))
        signal.signal(signal.SIGINT, previous)
    if process.returncode:
        raise typer.Exit(1)


def _print_event(event: GuestsEvent) -> None:
    match event:
        case GuestsPrepared():
            say_lines(
                "starting emulated guests with mock TDs: no hardware trust, and slow. When one is ready:\n"
                f"  bondstone verify {event.urls[0]} --group-document {event.group_document}\n"
                f'  curl -k -H "Authorization: Bearer $(cat {event.token_file})" '
                f"{event.urls[0]}/v1/group"
            )
        case GuestStarted():
            where = f"on bridge {event.bridge}, port 8443" if event.api is UNSET else event.api
            say(f"guest {event.number} (pid {event.pid}): {where}, console {event.console}")
        case GuestEnded():
            say(f"guest {event.number} ended")
        case ConsoleLine():
            _print_line(event.number, event.line)


def _print_line(number: int, line: dict[str, Any]) -> None:
    """Print messages of a guest's node, and why a guest stopped. All else stays in its console."""
    if line.get("source") == "node" and line.get("event") != "log":
        details = (f"{key}={value}" for key, value in line.items() if key not in _LINE_FRAME)
        say(f"guest {number}: {line.get('event')} {' '.join(details)}".rstrip())
    elif line.get("event") in {"configuration-refused", "init-failed", "DEBUG-IMAGE", "node"}:
        say(f"guest {number}: {line.get('message') or line.get('error') or line.get('text')}")


def _show(value: dict[str, Any], built: BuiltImage, *, as_json: bool) -> None:
    if as_json:
        print_json({"folder": str(built.folder), **value})
        return
    rows = [("mrtd", value["mrtd"]), ("mrtd two-pass", value["mrtd_twopass"])]
    for name, boot in value["boots"].items():
        rows += [(f"rtmr1 {name}", boot["rtmr1"]), (f"rtmr2 {name}", boot["rtmr2"])]
    if "rtmr0" in value:
        rows.append(("rtmr0", value["rtmr0"]))
    title = f"{value['name']} ({value['profile']}), predicted, in {built.folder}"
    table(("register", "value"), rows, title=title)
    if value["debug"]:
        say("A DEBUG IMAGE: it takes secrets from its host.", error=True)
    if value["profile"] == Profile.EMULATION.value:
        say("an image for emulation: its node can be a mock TD", error=True)
