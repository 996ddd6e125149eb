import importlib
import json
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from enclave.image.config import encode_config_disk, encode_guest_config
from enclave.image.folder import load_image
from enclave.image.rtmr import Boot
from node.bonds.tls import ALPN
from tests.images import harness
from tests.support import documents

TOOLS = ("qemu-system-x86_64", "gpgv")
pytestmark = [pytest.mark.image, pytest.mark.timeout(900)]

# Files that a production guest takes: its node then finds that it is in no TD.
GROUP = documents.MINIMAL
NODE = documents.NODE.partition("[attestation]")[0] + '[attestation]\nmode = "tdx"\n'


def call(url, path, token, body=None):
    request = urllib.request.Request(
        url + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    # The certificate is the node's own; `bondstone verify` decides what it is worth.
    context = ssl._create_unverified_context()
    with urllib.request.urlopen(request, timeout=30, context=context) as answer:
        return json.loads(answer.read())


def eventually(attempt, wanted):
    """Ask until the answer is the wanted one: a loaded machine may hold an election, or demote for a while."""
    deadline = time.monotonic() + harness.GROUP_SECONDS
    last = None
    while time.monotonic() < deadline:
        try:
            last = attempt()
        except (urllib.error.URLError, TimeoutError, ConnectionError) as exc:
            last = exc
        else:
            if wanted(last):
                return last
        time.sleep(1)
    raise AssertionError(f"not seen in {harness.GROUP_SECONDS} s; last: {last}")


def certificate_at(address):
    """The certificate of whoever speaks the bond protocol there; without ours, it ends with the handshake."""
    host, _, port = address.rpartition(":")
    context = ssl._create_unverified_context()
    context.set_alpn_protocols([ALPN.decode()])
    with socket.create_connection((host, int(port)), 30) as plain, context.wrap_socket(plain) as secure:
        assert secure.selected_alpn_protocol() == ALPN.decode()
        return secure.getpeercert(binary_form=True)


def refusal(console):
    return next(
        event for event in harness.console_events(console) if event["event"] == "configuration-refused"
    )


HOSTS_TOKEN = f"""
[[access.token]]
name = "host"
sha256 = "{"5a" * 32}"
roles = ["admin"]
"""


def test_a_production_guest_does_not_take_a_group_document_to_which_its_host_added_a_token(
    prod_image, tmp_path
):
    document = encode_guest_config({"node.toml": NODE, "group.toml": GROUP + HOSTS_TOKEN})
    measured = documents.document(GROUP).mrconfigid
    console = harness.boot(
        prod_image,
        tmp_path,
        *harness.direct(prod_image),
        *harness.config(tmp_path, document, mrconfigid=measured),
    )

    refused = refusal(console)
    assert refused["reason"] == "mrconfigid-mismatch"
    assert measured.hex() in refused["message"]
    assert not [event for event in harness.console_events(console) if event["event"] == "listening"]


EVIL = """
from node.machines.counter import Counter as Machine
print('{"event": "EVIL CODE RAN"}', flush=True)
"""
EVIL_GROUP = GROUP.replace("[policy.tcb]", 'state_machine = "bondstone.config.evil:Machine"\n[policy.tcb]')


def test_a_file_of_code_in_the_hosts_document_stops_the_production_guest(prod_image, tmp_path):
    files = {"node.toml": NODE, "group.toml": EVIL_GROUP, "evil.py": EVIL}
    console = harness.boot(
        prod_image,
        tmp_path,
        *harness.direct(prod_image),
        *harness.config(tmp_path, encode_guest_config(files)),
    )

    assert refusal(console)["reason"] == "config-file-name"
    assert not [event for event in harness.console_events(console) if event["event"] == "node-started"]
    assert b"EVIL CODE RAN" not in console


def test_a_guest_loads_no_machine_that_its_image_does_not_hold(emulation_image, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(harness.SCRIPTS))
    group = importlib.import_module("imagelib.group").EmulatedGroup(
        tmp_path / "group", [load_image(emulation_image)], allow_debug=False
    )
    config = json.loads(group.config_of(0).read_bytes())
    files = config["files"]
    files["group.toml"] = files["group.toml"].replace(
        'state_machine = "kv"', 'state_machine = "bondstone.config.evil:Machine"'
    )
    document = encode_guest_config(files)
    measured = documents.document(files["group.toml"]).mrconfigid
    console = harness.boot(
        emulation_image,
        tmp_path,
        *harness.direct(emulation_image),
        *harness.config(tmp_path, document, mrconfigid=measured),
    )

    events = {event["event"]: event for event in harness.console_events(console)}
    assert events["configuration"]["files"] == sorted(files)
    assert "'bondstone.config.evil:Machine' may not be loaded here" in events["refused"]["message"]
    assert events["node-ended"]["exit_code"] == 2


def test_a_configuration_disk_is_read_and_a_group_key_on_it_is_refused(prod_image, tmp_path):
    disk = tmp_path / "config.raw"
    disk.write_bytes(encode_config_disk(encode_guest_config({"node.toml": "[group]\nkey_file = 'k'\n"})))
    drive = [
        "-drive",
        f"if=none,id=c,format=raw,readonly=on,file={disk}",
        "-device",
        "virtio-blk-pci,drive=c",
    ]
    console = harness.boot(prod_image, tmp_path, *harness.direct(prod_image), *drive)

    assert refusal(console)["reason"] == "config-group-key"


def test_three_emulated_guests_form_an_attested_group_and_take_a_command(emulation_image, tmp_path):
    with harness.run_guests(tmp_path, [emulation_image], count=3, api_port=harness.free_api_port()) as guests:
        group = guests.until(lambda event: event["event"] == "group", seconds=harness.BOOT_SECONDS)
        for number in range(3):
            guests.until(harness.said(number, "ready"), seconds=harness.GROUP_SECONDS)
        token = (tmp_path / "token").read_text().strip()
        first, second, third = group["urls"]
        put = {"command": {"op": "put", "key": "greeting", "value": "hello"}}
        eventually(lambda: call(first, "/v1/commands", token, put), lambda answer: answer["index"] > 0)
        get = {"query": {"op": "get", "key": "greeting"}, "consistency": "strong"}
        eventually(
            lambda: call(second, "/v1/queries", token, get), lambda answer: "hello" in json.dumps(answer)
        )
        eventually(
            lambda: call(third, "/v1/group", token),
            lambda status: len(status["voters"]) == 3 and status["leader"] in status["voters"],
        )
        published = json.loads((emulation_image / "measurements.json").read_text())["boots"]["direct"]
        eventually(
            lambda: json.dumps(call(first, "/v1/attestation/peers", token)),
            lambda shown: published["rtmr1"] in shown and published["rtmr2"] in shown,
        )
        started = [event for event in guests.events if event["event"] == "guest-started"]
        bond_certificates = {certificate_at(event["bond"]) for event in started}

    # Each guest's bond listener is reachable from the host, and is another node's.
    assert len(bond_certificates) == 3


def test_an_image_with_one_changed_byte_is_refused_by_the_others(emulation_image, tmp_path):
    tampered = tmp_path / "tampered"
    tampered.mkdir()
    for file in emulation_image.iterdir():
        (tampered / file.name).symlink_to(file)
    initrd = bytearray((emulation_image / "initrd").read_bytes())
    # One byte of text in a file of the image, so that it boots all the same.
    at = initrd.index(b"VARIANT_ID=emulation")
    initrd[at + 11 : at + 12] = b"E"
    (tampered / "initrd").unlink()
    (tampered / "initrd").write_bytes(initrd)

    # Two good ones found the group, so that there are members who know who may ask them.
    images = [emulation_image, emulation_image, tampered]
    port = harness.free_api_port() + 5
    with harness.run_guests(tmp_path / "run", images, "--founders", "2", api_port=port) as guests:
        group = guests.until(lambda event: event["event"] == "group", seconds=harness.BOOT_SECONDS)
        for number in range(2):
            guests.until(harness.said(number, "ready"), seconds=harness.GROUP_SECONDS)
        guests.until(harness.said(2, "listening"), seconds=harness.GROUP_SECONDS)
        token = (tmp_path / "run" / "token").read_text().strip()
        measured = load_image(tampered).measure().boots[Boot.DIRECT].rtmr2.hex()
        # The refusal is awaited where it is recorded: in a good node's audit log. A slow handshake may time out
        # before, which is another entry there.
        eventually(
            lambda: call(group["urls"][0], "/v1/audit/events", token),
            lambda answer: any(
                event.get("reason") == "measurement-no-variant" and measured in json.dumps(event)
                for event in answer["events"]
            ),
        )
        status = eventually(
            lambda: call(group["urls"][0], "/v1/group", token), lambda status: len(status["voters"]) == 2
        )
        outside = problem(group["urls"][2], "/readyz")

    assert len(status["learners"]) == 0
    assert outside["reason"] == "no-cluster"


def bondstone(*arguments):
    command = [sys.executable, "-m", "node.cli.main", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=harness.BOOT_SECONDS,
        cwd=harness.PROJECT,
    )


def problem(url, path):
    """The answer to a request that is expected to fail."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        call(url, path, "none")
    with caught.value as answer:
        return json.loads(answer.read())


def test_a_guest_waits_for_its_group_key_and_takes_it_over_the_attested_channel_once(
    emulation_image, tmp_path
):
    folder = tmp_path / "run"
    key = folder / "group.key"
    port = harness.free_api_port() + 10
    with harness.run_guests(folder, [emulation_image], "--await-key", count=1, api_port=port) as guests:
        group = guests.until(lambda event: event["event"] == "group", seconds=harness.BOOT_SECONDS)
        url = group["urls"][0]
        guests.until(harness.said(0, "listening"), seconds=harness.BOOT_SECONDS)
        waiting = problem(url, "/readyz")
        arguments = [url, "--group-key", key, "--trust-root", group["trust_root"]]
        other = tmp_path / "other.toml"
        policy = folder / "policy.toml"
        # The same policy for another image: the key must not be sent.
        other.write_text(policy.read_text().replace('rtmr2 = ["', f'rtmr2 = ["{"11" * 48}"] #'))
        refused = bondstone("provision", *arguments, "--policy", other)
        # The same document with one more token: the guest was started with another one.
        added = tmp_path / "added.toml"
        added.write_text(Path(group["group_document"]).read_text() + HOSTS_TOKEN)
        differs = bondstone("provision", *arguments, "--group-document", added)
        still = problem(url, "/readyz")
        taken = bondstone("provision", *arguments, "--group-document", group["group_document"])
        guests.until(harness.said(0, "ready"), seconds=harness.BOOT_SECONDS)
        again = bondstone("provision", *arguments, "--policy", policy)

    # The console is the host's to read: neither the key nor a token is on it.
    console = (folder / "node-0.console").read_text()
    assert key.read_text().strip() not in console
    assert (folder / "token").read_text().strip() not in console
    assert '"event": "ready"' in console
    assert waiting["reason"] == "waiting-for-key"
    assert refused.returncode == 1, refused.stderr
    assert (differs.returncode, "mrconfigid-differs" in differs.stderr) == (1, True), differs.stderr
    assert still["reason"] == "waiting-for-key"
    assert taken.returncode == 0, taken.stderr
    assert again.returncode == 1, again.stdout
