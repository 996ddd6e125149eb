import base64
import hashlib
import json
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from attestation.eventlog.ccel import encode_ccel
from attestation.eventlog.events import Event, Origin, replay
from enclave.image.config import Profile, parse_guest_config_untrusted
from enclave.image.errors import ImageError, MalformedImageError, MeasurementMismatchError
from enclave.image.folder import load_image
from enclave.image.rtmr import Boot, MeasuredEvent
from enclave.mock.authority import MockAuthority
from node.cli.exits import USAGE, exit_code_of
from node.cli.image import app
from node.config import load_node
from node.errors import ConfigError
from tests.enclave.image.test_predict import image
from tests.support import documents


def write_image(folder, *, profile="prod"):
    """Write a small image as a build leaves it; return its folder."""
    folder.mkdir(exist_ok=True)
    files = image()
    contents = {
        "vmlinuz": files.kernel,
        "initrd": files.initrd,
        "uki.efi": files.uki,
        "disk.raw": files.disk,
        "OVMF.fd": files.firmware,
        "image.json": json.dumps(
            {
                "name": "test",
                "profile": profile,
                "command_line": files.command_line,
                "edk2": 202502,
                "source_date_epoch": 1795132800,
            }
        ).encode(),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_image(tmp_path)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def log_of(folder, boot=Boot.DIRECT):
    events = load_image(folder).measure().boots[boot].events
    return encode_ccel(
        Event(origin=Origin.CCEL, register=item.register, type=0xD, name="", digest=item.digest, data=b"")
        for item in events
    )


def test_measuring_follows_the_files_and_publishing_is_explicit(folder):
    with pytest.raises(MalformedImageError) as caught:
        load_image(folder).published()
    assert caught.value.reason == "image-measurements"

    done = run("measure", folder, "--json")
    assert done.exit_code == 0
    before = load_image(folder).published()
    assert json.loads(done.stdout)["boots"] == before["boots"]
    (folder / "initrd").write_bytes(b"another")
    assert load_image(folder).measure().to_value() != before
    assert load_image(folder).published() == before


def test_a_boot_as_predicted_is_accepted(folder):
    (folder / "log").write_bytes(log_of(folder))

    done = run("verify", folder, "--ccel", folder / "log", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["as_predicted"] is True


def with_quote(folder, *, rtmr0):
    """The log of a boot as predicted, with one event of the machine's shape, and a quote of it."""
    predicted = load_image(folder).measure().boots[Boot.DIRECT].events
    shape = MeasuredEvent(register=0, label="shape", digest=hashlib.sha384(b"acpi").digest())
    events = [
        Event(origin=Origin.CCEL, register=item.register, type=0xD, name="", digest=item.digest, data=b"")
        for item in (shape, *predicted)
    ]
    (folder / "log").write_bytes(encode_ccel(events))
    _, rtmr1, rtmr2, _ = replay(events)
    td = MockAuthority.create(datetime(2026, 11, 22, tzinfo=UTC)).create_td(
        rtmrs=(rtmr0 or replay(events)[0], rtmr1, rtmr2, bytes(48))
    )
    (folder / "quote").write_bytes(td.quote(bytes(64)))
    return replay(events)[0]


def test_the_register_of_the_machines_shape_is_captured_from_a_boot_that_its_quote_confirms(folder):
    rtmr0 = with_quote(folder, rtmr0=None)
    done = run("verify", folder, "--ccel", folder / "log", "--quote", folder / "quote", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["rtmr0"] == rtmr0.hex()

    # A log that leads to another value than the quote has is nothing to pin.
    with_quote(folder, rtmr0=bytes(48))
    refused = run("verify", folder, "--ccel", folder / "log", "--quote", folder / "quote")
    assert isinstance(refused.exception, MeasurementMismatchError)
    assert refused.exception.reason == "register-differs"


def test_the_shape_of_a_machine_is_read_from_a_debug_guests_console(folder):
    blobs = {"acpi-loader": b"loader" * 900, "acpi-rsdp": b"rsdp", "acpi-tables": b"tables" * 3000}
    lines = [
        json.dumps(
            {"event": "boot-log", "kind": kind, "offset": at, "size": len(data)}
            | {"data": base64.b64encode(data[at : at + 6000]).decode()}
        )
        for kind, data in blobs.items()
        for at in range(0, len(data), 6000)
    ]
    (folder / "console").write_text("\r\n".join(lines))
    parts = folder / "parts"
    parts.mkdir()
    for name, kind in (("table-loader", "acpi-loader"), ("rsdp", "acpi-rsdp"), ("tables", "acpi-tables")):
        (parts / name).write_bytes(blobs[kind])

    shown = [run("measure", folder, "--acpi", folder / source, "--json") for source in ("console", "parts")]
    assert [done.exit_code for done in shown] == [0, 0]
    measured = [json.loads(done.stdout) for done in shown]
    assert measured[0]["rtmr0"] == measured[1]["rtmr0"]
    # And it is what a policy pins then.
    pinned = run("measure", folder, "--acpi", folder / "parts", "--policy")
    assert f'rtmr0 = ["{measured[0]["rtmr0"]}"]' in pinned.stdout
    labels = [item["label"] for item in measured[0]["rtmr0_events"]]
    digests = [item["digest"] for item in measured[0]["rtmr0_events"]]
    assert hashlib.sha384(blobs["acpi-tables"]).hexdigest() in digests, labels


def test_a_policy_needs_the_hosts_acpi_tables_or_an_explicit_choice_not_to_check_them(folder):
    omitted = run("measure", folder, "--policy")
    assert isinstance(omitted.exception, ConfigError)
    assert "guest's memory" in str(omitted.exception)
    assert omitted.stdout == ""
    both = run("measure", folder, "--policy", "--acpi", folder, "--waive-rtmr0")
    assert isinstance(both.exception, ConfigError)

    waived = run("measure", folder, "--policy", "--waive-rtmr0")
    assert waived.exit_code == 0
    assert "# RTMR[0] IS NOT CHECKED" in waived.stdout


def test_verifying_a_boot_reports_that_the_hosts_acpi_tables_were_not_predicted(folder):
    with_quote(folder, rtmr0=None)
    arguments = ["verify", folder, "--ccel", folder / "log", "--json"]
    assert json.loads(run(*arguments).stdout)["not_checked"] == ["rtmr0", "quote"]
    assert json.loads(run(*arguments, "--quote", folder / "quote").stdout)["not_checked"] == ["rtmr0"]


@pytest.mark.parametrize("boot", [Boot.UKI_DIRECT, Boot.UKI_DISK])
def test_a_boot_that_differs_is_refused_by_the_name_of_its_first_event(folder, boot):
    (folder / "log").write_bytes(log_of(folder, boot))

    done = run("verify", folder, "--ccel", folder / "log", "--json")
    assert done.exit_code == 1
    assert isinstance(done.exception, ImageError)
    assert "RTMR[1] event 0, kernel" in json.loads(done.stdout)["first_difference"]


def test_verifying_needs_exactly_one_log(folder):
    (folder / "log").write_bytes(log_of(folder))
    for arguments in ((), ("--ccel", folder / "log", "--tpm-log", folder / "log")):
        assert isinstance(run("verify", folder, *arguments).exception, ConfigError)


def test_a_folder_without_an_image_is_refused(tmp_path):
    with pytest.raises(MalformedImageError) as caught:
        load_image(tmp_path)

    assert caught.value.reason == "image-folder"
    assert "image build" in caught.value.message


NODE = documents.NODE.partition("[attestation]")[0] + '[attestation]\nmode = "tdx"\n'


@pytest.fixture
def files(tmp_path):
    (tmp_path / "node.toml").write_text(NODE)
    (tmp_path / "group.toml").write_text(documents.MINIMAL)
    return [tmp_path / "node.toml", tmp_path / "group.toml"]


def test_a_configuration_is_packed_with_the_mrconfigid_of_its_group_document(files, tmp_path):
    out = tmp_path / "document"
    done = run("config", *files, "--out", out, "--address", "eth1=10.0.0.1/24", "--json")

    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    document = documents.document()
    assert shown["mrconfigid"] == document.mrconfigid.hex()
    assert base64.b64decode(shown["mrconfigid_base64"]) == document.mrconfigid
    assert shown["group_id"] == document.group_id.hex()
    config = parse_guest_config_untrusted(out.read_bytes(), profile=Profile.PROD)
    assert str(config.addresses["eth1"]) == "10.0.0.1/24"
    # Of another node of the group it is the same: what differs is not in it.
    files[0].write_text(NODE.replace('name = "a"', 'name = "b"'))
    other = run("config", *files, "--out", out, "--address", "eth1=10.0.0.2/24", "--json")
    assert json.loads(other.stdout)["mrconfigid"] == shown["mrconfigid"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda node, group: (node + "[consensus]\nheartbeat_ms = 1\n", group), "[consensus]"),
        (lambda node, group: (node.replace('name = "a"', 'name = "-"'), group), "[node.name]"),
        (lambda node, group: (node, group.replace("expect 3", "expect 99")), "[group.bootstrap]"),
        (lambda node, group: (node, group + "[node]\n"), "belongs in the node file"),
        (lambda node, group: (node, group.replace("schema = 1", "schema = 2")), "[schema]"),
        (lambda node, group: (node, group.replace('"derived"', f'"{"c0" * 32}"')), "await_key"),
        (lambda node, group: (node, group.replace("UpToDate", "Fine")), "accepted_statuses"),
    ],
)
def test_a_configuration_that_the_node_would_refuse_is_not_packed(files, tmp_path, change, says):
    node, group = change(NODE, documents.MINIMAL)
    files[0].write_text(node)
    files[1].write_text(group)
    done = run("config", *files, "--out", tmp_path / "document")

    assert isinstance(done.exception, ConfigError)
    assert says in str(done.exception)
    assert not (tmp_path / "document").exists()
    # The node judges the same files in the same way.
    with pytest.raises(ConfigError) as caught:
        load_node(files[0])
    assert says in str(caught.value)


def test_a_file_that_the_node_file_names_is_packed_with_it_or_reported_missing(files, tmp_path):
    files[0].write_text(NODE + "[attestation.collateral]\ntls_ca = 'ca.pem'\n")
    done = run("config", *files, "--out", tmp_path / "document")
    assert "[attestation.collateral.tls_ca] names ca.pem" in str(done.exception)

    (tmp_path / "ca.pem").write_text("")
    assert run("config", *files, tmp_path / "ca.pem", "--out", tmp_path / "document").exit_code == 0
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "ca.pem").write_text("")
    twice = run("config", *files, tmp_path / "ca.pem", tmp_path / "again" / "ca.pem", "--out", tmp_path / "d")
    assert "two files are named ca.pem" in str(twice.exception)


def test_a_configuration_is_packed_for_the_profile_and_the_machines_of_its_image(files, tmp_path):
    image = write_image(tmp_path / "image")
    manifest = json.loads((image / "image.json").read_text())
    (image / "image.json").write_text(json.dumps({**manifest, "machines": ["ledger:Ledger"]}))
    files[1].write_text(
        documents.MINIMAL.replace("[policy.tcb]", 'state_machine = "ledger:Ledger"\n[policy.tcb]')
    )
    arguments = ["config", *files, "--out", tmp_path / "document"]

    assert "'ledger:Ledger' may not be loaded" in str(run(*arguments).exception)
    assert run(*arguments, "--image", image).exit_code == 0
    assert isinstance(run(*arguments, "--image", image, "--profile", "debug").exception, ConfigError)


def test_a_group_key_is_not_packed_for_a_production_image(tmp_path):
    (tmp_path / "node.toml").write_text(NODE.replace("[bond]", "key_file = 'k'\n[bond]"))

    done = run("config", tmp_path / "node.toml", "--out", tmp_path / "document")
    assert isinstance(done.exception, ImageError)
    # A file is wrong: that is a mistake of whoever wrote it, not a verdict.
    assert exit_code_of(done.exception) == USAGE
    assert not (tmp_path / "document").exists()
