"""The guest's own code, as far as it needs no guest."""

import hashlib
import importlib
import json
import struct
import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from attestation.eventlog.ccel import encode_ccel
from attestation.eventlog.events import Event, Origin
from enclave.image.config import (
    CONFIG_BYTES_MAX,
    Profile,
    encode_guest_config,
    parse_guest_config_untrusted,
)
from enclave.image.errors import GuestConfigError
from enclave.image.folder import load_image
from enclave.image.rtmr import Boot
from enclave.mock.authority import MockAuthority
from node.cli.image import app
from node.config import load_node
from node.life import build_date
from tests.enclave.image.test_folder_and_cli import write_image
from tests.images import harness
from tests.support import documents
from tests.support.netns import unavailable


@pytest.fixture(scope="module", autouse=True)
def guest_on_path():
    sys.path.insert(0, str(harness.SCRIPTS))
    yield
    sys.path.remove(str(harness.SCRIPTS))


def dhcp():
    return importlib.import_module("guest.dhcp")


def guest_main():
    return importlib.import_module("guest.main")


HARDWARE = bytes.fromhex("525400123456")


def answer(kind=5, *, transaction=7, hardware=HARDWARE, options=None, address="10.0.2.15"):
    given_address = bytes(map(int, address.split(".")))
    head = struct.pack(
        "!BBBBIHH4s4s4s4s16s192x",
        2,
        1,
        6,
        0,
        transaction,
        0,
        0,
        bytes(4),
        given_address,
        bytes(4),
        bytes(4),
        hardware.ljust(16, b"\0"),
    )
    values = {
        53: bytes([kind]),
        1: bytes([255, 255, 255, 0]),
        3: bytes([10, 0, 2, 2]),
        6: bytes([10, 0, 2, 3]),
        51: (3600).to_bytes(4, "big"),
        54: bytes([10, 0, 2, 2]),
    }
    values |= options or {}
    body = b"".join(bytes([code, len(value)]) + value for code, value in values.items() if value is not None)
    return head + b"\x63\x82\x53\x63" + body + b"\xff"


def parse(data):
    return dhcp().parse_answer_untrusted(data, transaction=7, hardware=HARDWARE)


def test_a_lease_is_read():
    kind, lease = parse(answer())

    assert kind == dhcp().ACK
    assert (str(lease.address), lease.prefix, lease.seconds) == ("10.0.2.15", 24, 3600)
    assert [str(router) for router in lease.routers] == ["10.0.2.2"]


def test_a_lease_is_renewed_at_half_its_time_and_given_up_at_its_end():
    tenancy = dhcp().Tenancy(parse(answer())[1], now=100)
    assert tenancy.ask_at == 100 + 1800

    asked = []
    while not tenancy.expired(now=tenancy.ask_at):
        asked.append(tenancy.ask_at)
        tenancy.unanswered(now=tenancy.ask_at)
    # Half of what is left, each time, but never sooner than in a minute.
    assert asked[:4] == [1900, 2800, 3250, 3475]
    assert all(later - earlier >= 60 for earlier, later in pairwise(asked))
    assert tenancy.ask_at >= 3700

    tenancy.renewed(parse(answer(options={51: (600).to_bytes(4, "big")}))[1], now=5000)
    assert tenancy.ask_at == 5300
    assert not tenancy.expired(now=5599)


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
@pytest.mark.timeout(300)
def test_leases_are_renewed_on_a_live_link_and_a_refused_one_is_replaced(tmp_path):
    resolv = tmp_path / "resolv.conf"
    inside = f"mount -t sysfs sysfs /sys && exec {sys.executable} -m tests.images.dhcp_link {resolv}"
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--", "sh", "-c", inside],
        capture_output=True, text=True, check=False, timeout=280, cwd=harness.PROJECT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)

    assert shown["finished"], shown
    answered = [item for item in shown["seen"] if item["kind"] != "unanswered"]
    silence = [item for item in shown["seen"] if item["kind"] == "unanswered"]
    assert [item["kind"] for item in answered] == [item["wanted"] for item in answered]
    # A client that renews names the address that it holds; one that asks again holds none (RFC 2131, table 5).
    bound = [item["bound"] for item in answered]
    none, first, second = "0.0.0.0", "10.0.2.15", "10.0.2.16"
    assert bound == [none, none, first, first, none, none, second, none, none]
    # At half of the lease, then after half of what is left, but not sooner than in a minute: once an hour is over.
    assert [item["bound"] for item in silence] == [second] * 7
    said = [(item["event"], item["address"]) for item in shown["said"] if item["event"] == "dhcp-lease"]
    assert said == [("dhcp-lease", first), ("dhcp-lease", second), ("dhcp-lease", second)]
    assert [item["local"] for item in shown["link"][0]["addr_info"]] == ["10.0.2.16"]
    assert [item["gateway"] for item in shown["routes"] if item["dst"] == "default"] == ["10.0.2.2"]
    assert resolv.read_text() == "nameserver 10.0.2.2\n"


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b" " * (CONFIG_BYTES_MAX + 1), "config-too-large"),
        (b'{"version": 1', "config-json"),
        (encode_guest_config({"policy.toml": ""}), "config-node-missing"),
        (encode_guest_config({"node.toml": "", "../init": ""}), "config-file-name"),
    ],
)
def test_a_bad_configuration_stops_the_guest_with_a_reason_and_writes_nothing(
    monkeypatch, tmp_path, document, reason
):
    main, intake = guest_main(), importlib.import_module("guest.intake")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "raw").write_bytes(document)
    lines, ended = [], []
    monkeypatch.setattr(intake, "FW_CFG", tmp_path)
    monkeypatch.setattr(main, "CONFIG", tmp_path / "written")
    monkeypatch.setattr(main, "_write", lines.append)
    monkeypatch.setattr(main, "_power_off", lambda: ended.append(True))
    monkeypatch.setattr(main, "_run", lambda: main._take_configuration(Profile.PROD))
    main.main()

    (line,) = map(json.loads, lines)
    assert (line["event"], line["reason"]) == ("configuration-refused", reason)
    assert line["message"]
    assert ended
    assert not (tmp_path / "written").exists()


def test_the_files_of_a_configuration_are_for_the_node_alone(monkeypatch, tmp_path):
    main, intake = guest_main(), importlib.import_module("guest.intake")
    document = encode_guest_config({"node.toml": NODE, "group.toml": "", "authority/root.pem": "key"})
    monkeypatch.setattr(intake, "read_config", lambda: (document, "disk"))
    monkeypatch.setattr(main, "CONFIG", tmp_path / "config")
    monkeypatch.setattr(main, "DATA", tmp_path / "data")
    monkeypatch.setattr(main, "_write", lambda _: None)
    main._take_configuration(Profile.PROD)

    written = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*")}
    files = {name for name, path in written.items() if path.is_file()}
    assert files == {"config/node.toml", "config/group.toml", "config/authority/root.pem"}
    assert {written[name].stat().st_mode & 0o777 for name in files} == {0o600}
    assert {written[name].stat().st_mode & 0o777 for name in ("data", "config/authority")} == {0o700}


def test_the_clock_of_the_node_starts_at_the_build_and_its_environment_is_ours_alone(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "from-the-kernels-command-line")
    environment = guest_main().node_environment({"built": 1795132800})

    assert environment["BONDSTONE_BUILD_DATE"] == "1795132800"
    assert "LD_PRELOAD" not in environment
    monkeypatch.setenv("BONDSTONE_BUILD_DATE", environment["BONDSTONE_BUILD_DATE"])
    assert build_date() == datetime(2026, 11, 20, tzinfo=UTC)


EVIL = """\
from pathlib import Path
from node.machines.counter import Counter as Machine
Path(__file__).with_name("ran").touch()
"""
EVIL_GROUP = documents.MINIMAL.replace(
    "[policy.tcb]", 'state_machine = "bondstone.config.evil:Machine"\n[policy.tcb]'
)
NODE = documents.NODE.partition("[attestation]")[0] + '[attestation]\nmode = "tdx"\n'


@pytest.fixture
def hosts_file(tmp_path):
    """The host's files as they would lie in a guest, had its document been taken."""
    folder = tmp_path / "run" / "bondstone" / "config"
    folder.mkdir(parents=True)
    (folder / "evil.py").write_text(EVIL)
    (folder / "node.toml").write_text(NODE)
    (folder / "group.toml").write_text(EVIL_GROUP)
    return folder / "evil.py"


def test_a_document_with_a_file_of_code_is_refused():
    files = {"node.toml": NODE, "group.toml": EVIL_GROUP, "evil.py": EVIL}
    with pytest.raises(GuestConfigError) as caught:
        parse_guest_config_untrusted(encode_guest_config(files), profile=Profile.PROD)

    assert caught.value.reason == "config-file-name"


def test_a_text_file_in_the_hosts_document_does_not_run_as_the_guests_state_machine(hosts_file):
    # As if the file had been taken, and the interpreter had found it: the node itself loads no such machine.
    done = guest_node(hosts_file.parent, path=hosts_file.parents[2])

    refused = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 2, done.stderr
    assert (refused["event"], refused["error"]) == ("refused", "ConfigError")
    assert "may not be loaded here" in refused["message"]
    assert not hosts_file.with_name("ran").exists()


def guest_node(folder, *, path, profile="prod", mrconfigid=None):
    """Run the guest's node on the files in ``folder``, as in an image of this profile and with this MRCONFIGID."""
    image = path / "image.json"
    image.write_text(json.dumps({"machines": [], "profile": profile}))
    if mrconfigid is not None:
        (path / "fw_cfg" / "mrconfigid").mkdir(parents=True)
        (path / "fw_cfg" / "mrconfigid" / "raw").write_bytes(mrconfigid)
    start = f"import sys; sys.path[:0] = {[str(harness.SCRIPTS), str(path)]}; from pathlib import Path\n"
    start += "from guest import intake, node\n"
    start += f"node.IMAGE, intake.FW_CFG = Path({str(image)!r}), Path({str(path / 'fw_cfg')!r})\n"
    start += "sys.exit(node.main())"
    return subprocess.run(
        [sys.executable, "-c", start, str(folder / "node.toml")],
        capture_output=True, text=True, check=False, timeout=100, cwd=harness.PROJECT,
    )  # fmt: skip


@pytest.fixture
def files(tmp_path):
    """The files of a node whose configuration is in order, but which is in no TD."""
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "node.toml").write_text(NODE)
    (folder / "group.toml").write_text(documents.MINIMAL)
    return folder


def told(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


OWN = documents.document(documents.MINIMAL).mrconfigid


@pytest.mark.parametrize(
    "mrconfigid", [bytes(47) + b"\1", OWN[::-1], hashlib.sha384(documents.MINIMAL.encode()).digest()]
)
def test_the_node_of_a_guest_does_nothing_by_a_group_document_that_was_not_measured(
    files, tmp_path, mrconfigid
):
    done = guest_node(files, path=tmp_path, mrconfigid=mrconfigid)

    assert done.returncode == 2, done.stderr
    (event,) = told(done)
    assert (event["event"], event["reason"]) == ("configuration-refused", "mrconfigid-mismatch")
    assert OWN.hex() in event["message"]
    assert not (files / "data").exists()


@pytest.mark.parametrize(("mrconfigid", "measured"), [(OWN, True), (bytes(48), False), (None, False)])
def test_the_node_of_a_guest_reports_whether_its_group_document_was_measured(
    files, tmp_path, mrconfigid, measured
):
    # Other comments and another order of keys are the same document.
    group = (files / "group.toml").read_text()
    (files / "group.toml").write_text("# a comment\n" + group.replace('name = "n"', 'name="n" # the same'))
    done = guest_node(files, path=tmp_path, mrconfigid=mrconfigid)

    first, last = told(done)[0], told(done)[-1]
    assert (first["event"], first["sha384"], first["measured"]) == ("group-document", OWN.hex(), measured)
    # It got as far as asking for its quote, in no TD.
    assert (last["event"], last["error"]) == ("refused", "NotATrustDomainError")


def test_an_mrconfigid_of_another_length_is_refused(files, tmp_path):
    done = guest_node(files, path=tmp_path, mrconfigid=b"\1")

    assert told(done)[-1]["reason"] == "mrconfigid-length"


@pytest.mark.parametrize("measured", [OWN, None])
def test_a_mock_td_reports_the_mrconfigid_that_its_host_has_set(files, tmp_path, monkeypatch, measured):
    node, intake = importlib.import_module("guest.node"), importlib.import_module("guest.intake")
    (tmp_path / "image.json").write_text('{"machines": [], "profile": "emulation"}')
    (files / "node.toml").write_text(documents.NODE + f'mrconfigid = "{"ab" * 48}"\n')
    monkeypatch.setattr(node, "IMAGE", tmp_path / "image.json")
    monkeypatch.setattr(intake, "mr_config_id", lambda: measured or bytes(48))
    monkeypatch.setattr(node, "report", lambda _: None)
    checked, _ = node._checked(load_node(files / "node.toml"))

    assert checked.config.attestation.mock.mrconfigid == (measured or bytes(48)).hex()


def test_a_production_guest_takes_no_mock_root_from_its_host(files, tmp_path):
    root = MockAuthority.create(datetime(2026, 11, 22, tzinfo=UTC)).root.certificate_der.hex()
    (files / "group.toml").write_text(documents.MINIMAL + f'[trust]\nroot = "{root}"\n')
    refused = told(guest_node(files, path=tmp_path))[-1]

    assert (refused["event"], refused["error"]) == ("refused", "ConfigError")
    assert "[trust] root" in refused["message"]
    emulated = told(guest_node(files, path=tmp_path, profile="emulation"))[-1]
    assert emulated["error"] == "NotATrustDomainError"


def test_the_guests_interpreter_finds_nothing_that_the_host_wrote(hosts_file):
    run = hosts_file.parents[2]
    hosts_file.write_text('from pathlib import Path\nPath(__file__).with_name("ran").touch()\n')

    def imports(flags):
        done = subprocess.run(
            [sys.executable, *flags, "-c", "import bondstone.config.evil"],
            capture_output=True, text=True, check=False, timeout=60, cwd=run, env={"PYTHONPATH": str(run)},
        )  # fmt: skip
        ran = hosts_file.with_name("ran")
        found = ran.exists()
        ran.unlink(missing_ok=True)
        return found, done.stderr

    flags = guest_main().NODE_COMMAND[1:-1]
    found, said = imports(flags)
    assert not found
    assert "No module named 'bondstone" in said
    # Not isolated, the same interpreter in the same place runs it.
    assert imports([flag for flag in flags if flag != "-I"]) == (True, "")
    assert guest_main().WORKING_DIRECTORY == "/"


def printed(monkeypatch, tmp_path, area):
    """What PID 1 prints of a CCEL area, on a console with other output."""
    main = guest_main()
    (tmp_path / "CCEL").write_bytes(area)
    lines = [b"SeaBIOS", b"[    0.1] {not json"]
    monkeypatch.setattr(main, "_BOOT_LOGS", (("ccel", tmp_path / "CCEL"),))
    monkeypatch.setattr(main, "_write", lines.append)
    main._print_boot_logs()
    console = tmp_path / "console"
    console.write_bytes(b"\r\n".join([*lines, b""]))
    return console


def verified(image, console):
    return CliRunner().invoke(app, ["verify", str(image), "--console", str(console), "--json"])


def test_the_event_log_of_a_td_comes_over_its_console_and_is_held_against_the_prediction(
    monkeypatch, tmp_path
):
    image = write_image(tmp_path / "image")
    predicted = load_image(image).measure().boots[Boot.DIRECT].events
    events = [
        Event(
            origin=Origin.CCEL, register=item.register, type=0xD, name="", digest=item.digest,
            data=b"long" * 900 + b"\xff" * 5,
        )
        for item in predicted
    ]  # fmt: skip
    area = encode_ccel(events).ljust(64 * 1024, b"\xff")

    done = verified(image, printed(monkeypatch, tmp_path, area))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["as_predicted"] is True

    # One bit of the second register's last event: found, and named.
    at = area.index(predicted[-1].digest)
    other = area[:at] + bytes([area[at] ^ 1]) + area[at + 1 :]
    refused = verified(image, printed(monkeypatch, tmp_path, other))
    assert refused.exit_code == 1
    assert f"RTMR[2] event 1, {predicted[-1].label}" in json.loads(refused.stdout)["first_difference"]


def test_a_renewing_request_carries_the_address_and_no_choice_of_server():
    _, lease = parse(answer())
    renewing = dhcp().message(3, transaction=9, hardware=HARDWARE, bound=lease.address)
    requesting = dhcp().message(3, transaction=9, hardware=HARDWARE, offered=lease)

    assert renewing[12:16] == lease.address.packed
    assert b"\x36\x04" not in renewing[240:]
    assert requesting[12:16] == bytes(4)
    assert b"\x32\x04" + lease.address.packed + b"\x36\x04" + lease.server.packed in requesting


def test_a_refusal_gives_no_lease():
    assert parse(answer(6)) == (6, None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        answer(transaction=8),
        answer(hardware=bytes(6)),
        answer(2)[:200],
        answer(9),
        answer(address="0.0.0.0"),
        answer(address="224.0.0.1"),
        answer(address="127.0.0.1"),
        answer(options={1: None}),
        answer(options={1: bytes([255, 0, 255, 0])}),
        answer(options={1: bytes(4)}),
        answer(options={51: b"\0"}),
        answer(options={54: None}),
        answer(options={6: b"abc"}),
        answer()[:-8],
        answer() + bytes(2000),
    ],
)  # fmt: skip
def test_answers_for_others_or_without_sense_are_refused(data):
    with pytest.raises(dhcp().DhcpError):
        parse(data)


def test_a_host_cannot_make_the_guest_ask_all_the_time():
    assert parse(answer(options={51: bytes(4)}))[1].seconds == dhcp().LEASE_SECONDS_MIN


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_foreign_answers_raise_the_declared_error_only(tail):
    try:
        parse(answer()[:240] + tail)
    except dhcp().DhcpError:
        pass
