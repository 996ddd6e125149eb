"""`bondstone image doctor`: which hosts it calls ready, and what it advises to the others. All hosts here are fakes."""

import json
import os
import socket
from dataclasses import dataclass, field

import pytest
from typer.testing import CliRunner

from node.cli import host_checks, image
from node.cli.exits import NO, UNDECIDED, YES
from node.cli.host_checks import HostAnswer, HostProbe, examine, exit_code
from node.errors import ConfigError

READY = {
    "/proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu vmx tdx_host_platform\nbugs\t\t: none\n",
    "/proc/sys/kernel/osrelease": "6.16.3-amd64\n",
    "/sys/module/kvm_intel/parameters/tdx": "Y\n",
    "/sys/class/net/br0/operstate": "up\n",
    "/etc/qemu/bridge.conf": "# rules\nallow br0\n",
}
VERSION = ("qemu-system-x86_64", "--version")
OBJECTS = ("qemu-system-x86_64", "-object", "help")


@dataclass
class FakeHost:
    """A host with TDX, a group's bridge and a PCCS; a test takes parts away."""

    texts: dict = field(default_factory=lambda: dict(READY))
    there: set = field(
        default_factory=lambda: {"/dev/kvm", "/var/run/tdx-qgs/qgs.socket", "/sys/class/net/br0/bridge"}
    )
    closed: set = field(default_factory=set)
    outputs: dict = field(
        default_factory=lambda: {
            VERSION: "QEMU emulator version 10.1.2 (Debian 1:10.1.2+ds-1)\n",
            OBJECTS: "List of user creatable objects:\n  sev-guest\n  tdx-guest\n",
        }
    )
    servers: set = field(default_factory=lambda: {("pccs.example", 8081), ("pcs.example", 443)})

    def text(self, path):
        return self.texts.get(str(path))

    def exists(self, path):
        return str(path) in self.there

    def may_open(self, path):
        return str(path) not in self.closed

    def output(self, command):
        return self.outputs.get(tuple(command))

    def answers(self, path):
        return self.exists(path) and self.may_open(path)

    def reaches(self, host, port):
        return (host, port) in self.servers


def judged(host, *, bridge="br0", collateral="https://pccs.example:8081/sgx"):
    return {row.name: row for row in examine(host, bridge=bridge, collateral=collateral)}


def test_a_host_with_everything_is_ready():
    rows = judged(FakeHost())

    assert {row.state for row in rows.values()} == {HostAnswer.OK}
    assert [row.todo for row in rows.values() if row.todo] == []
    assert exit_code(list(rows.values())) == YES
    # Bridge and collateral are asked for only if they are named; the default port is that of HTTPS.
    assert set(rows) - set(judged(FakeHost(), bridge=None, collateral=None)) == {
        "bridge", "bridge-rule", "collateral"
    }  # fmt: skip
    assert judged(FakeHost(), collateral="https://pcs.example")["collateral"].state is HostAnswer.OK


def test_a_host_without_tdx_is_given_something_to_do_in_every_row():
    host = FakeHost(texts={"/proc/cpuinfo": "flags : fpu vmx\n"}, there=set(), outputs={}, servers=set())
    host.texts["/proc/sys/kernel/osrelease"] = "6.1.0-40-amd64\n"
    rows = judged(host)

    assert {name for name, row in rows.items() if row.state is HostAnswer.UNKNOWN} == {"qemu-tdx"}
    assert {row.state for name, row in rows.items() if name != "qemu-tdx"} == {HostAnswer.NOT_OK}
    assert all(row.todo for row in rows.values())
    assert exit_code(list(rows.values())) == NO


def without(**change):
    host = FakeHost()
    for name, value in change.items():
        held = getattr(host, name)
        held.update(value) if isinstance(held, dict) else held.symmetric_difference_update(value)
    return host


@pytest.mark.parametrize(
    ("host", "row", "says"),
    [
        (without(texts={"/sys/module/kvm_intel/parameters/tdx": "N\n"}), "kvm-tdx", "kvm_intel.tdx=1"),
        (without(texts={"/sys/module/kvm_intel/parameters/tdx": None}), "kvm-tdx", "kvm_intel"),
        (without(texts={"/proc/sys/kernel/osrelease": "6.15.9\n"}), "kernel", "6.16"),
        (without(there={"/dev/kvm"}), "kvm", "modprobe kvm_intel"),
        (without(closed={"/dev/kvm"}), "kvm", "group kvm"),
        (without(outputs={VERSION: "QEMU emulator version 10.0.13\n"}), "qemu", "10.1"),
        (without(outputs={VERSION: None}), "qemu", "apt-get install"),
        (without(outputs={OBJECTS: "List of user creatable objects:\n  sev-guest\n"}), "qemu-tdx", "TDX"),
        (without(there={"/var/run/tdx-qgs/qgs.socket"}), "qgs", "tdx-qgs"),
        (without(closed={"/var/run/tdx-qgs/qgs.socket"}), "qgs", "qgsd"),
        (without(there={"/sys/class/net/br0/bridge"}), "bridge", "type bridge"),
        (without(texts={"/sys/class/net/br0/operstate": "down\n"}), "bridge", "up"),
        (without(texts={"/etc/qemu/bridge.conf": "allow br1\n"}), "bridge-rule", "allow br0"),
        (without(texts={"/etc/qemu/bridge.conf": "allow all\ndeny br0\n"}), "bridge-rule", "allow br0"),
        (without(texts={"/etc/qemu/bridge.conf": None}), "bridge-rule", "allow br0"),
        (without(servers={("pccs.example", 8081)}), "collateral", "PCCS"),
    ],
)
def test_one_missing_part_is_named_alone_with_what_to_do(host, row, says):
    rows = judged(host)

    assert [name for name, each in rows.items() if each.state is not HostAnswer.OK] == [row]
    assert says in rows[row].todo
    assert exit_code(list(rows.values())) == NO


def test_a_processor_flag_that_is_missing_decides_only_if_kvm_does_not_offer_tdx():
    host = FakeHost()
    host.texts["/proc/cpuinfo"] = "flags : fpu\n"
    assert judged(host)["cpu"].state is HostAnswer.OK
    host.texts["/sys/module/kvm_intel/parameters/tdx"] = "N"
    assert judged(host)["cpu"].state is HostAnswer.NOT_OK


def test_what_cannot_be_read_is_unknown_and_undecided():
    host = without(texts={"/proc/sys/kernel/osrelease": None}, outputs={OBJECTS: None})
    rows = judged(host)

    unknown = {name for name, row in rows.items() if row.state is HostAnswer.UNKNOWN}
    assert unknown == {"kernel", "qemu-tdx"}
    assert exit_code(list(rows.values())) == UNDECIDED


@pytest.mark.parametrize("url", ["http://pccs.example", "pccs.example", "https://", "https://h:port"])
def test_the_collateral_service_is_an_https_url(url):
    with pytest.raises(ConfigError):
        judged(FakeHost(), collateral=url)


@pytest.mark.parametrize("state", [YES, NO])
def test_the_command_prints_the_rows_and_exits_by_them(monkeypatch, state):
    host = FakeHost() if state == YES else without(there={"/dev/kvm"})
    monkeypatch.setattr(image, "HostProbe", lambda: host)
    done = CliRunner().invoke(image.app, ["doctor", "--bridge", "br0", "--json"])
    shown = CliRunner().invoke(image.app, ["doctor", "--bridge", "br0"])

    value = json.loads(done.stdout)
    assert (done.exit_code, shown.exit_code) == (state, state)
    assert value["ready"] is (state == YES)
    assert {row["name"]: row["state"] for row in value["checks"]}["kvm"] == (
        "ok" if state == YES else "not ok"
    )
    assert ("modprobe" in shown.stdout) is (state == NO)


def test_the_probe_of_this_host_answers_for_what_is_there_and_what_is_not(tmp_path):
    probe = HostProbe()
    file, server = tmp_path / "file", tmp_path / "server.socket"
    file.write_text("Y\n")

    assert (probe.text(file), probe.text(tmp_path / "none")) == ("Y\n", None)
    assert (probe.exists(file), probe.may_open(file), probe.exists(tmp_path / "none")) == (True, True, False)
    assert probe.output(["uname", "-s"]) == "Linux\n"
    assert [probe.output(command) for command in (["false"], ["/nonexistent"])] == [None, None]
    # A file of /proc/sys takes no read of many megabytes.
    assert probe.text(host_checks.KERNEL_RELEASE).strip() == os.uname().release
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(server))
        assert probe.answers(server) is False
        listener.listen()
        assert (probe.answers(server), probe.answers(file)) == (True, False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert probe.reaches("127.0.0.1", port) is True
    assert probe.reaches("127.0.0.1", port) is False


def test_the_files_that_are_asked_for_are_those_that_run_a_td():
    from tests.images import harness

    command = (harness.SCRIPTS / "imagelib" / "qemu.py").read_text()
    assert f'"{host_checks.QGS_SOCKET}"' in command
    assert f'"{host_checks.QEMU}"' in command
