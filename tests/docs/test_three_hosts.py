"""docs/deploy.md, the path for three hosts: its files are those that the loaders and systemd take."""

import configparser
import re
import shlex
import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from enclave.image.config import Profile, encode_guest_config, parse_guest_config_untrusted
from node.cli.image import app
from node.guest import files_of_guest
from node.machines.loader import BUILT_IN_ONLY
from tests.enclave.image.test_folder_and_cli import write_image
from tests.support.cluster import PROJECT

TEXT = (PROJECT / "docs/deploy.md").read_text()
SECTION = TEXT.split("### Three hosts, step by step\n")[1].split("\n### ")[0]
GROUP, NODE = re.findall(r"```toml\n(.*?)```", SECTION, re.DOTALL)
UNIT = PROJECT / "tdx-images" / "bondstone-td.service"


def unit():
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.optionxform = str
    parsed.read_string(UNIT.read_text())
    return parsed


def test_a_guest_takes_the_three_nodes_with_the_measurements_of_an_image(tmp_path):
    folder = write_image(tmp_path / "image")
    measured = CliRunner().invoke(app, ["measure", str(folder), "--group-document", "--waive-rtmr0"])
    assert measured.exit_code == 0, measured.output
    group, ids, names = GROUP + measured.stdout, set(), []
    for number in (1, 2, 3):
        before, seeds = NODE.split("seeds =")
        node = before.replace("h1", f"h{number}").replace("10.0.0.11", f"10.0.0.1{number}")
        node += f"seeds ={seeds}"
        packed = encode_guest_config({"node.toml": node, "group.toml": group})
        parsed = parse_guest_config_untrusted(packed, profile=Profile.PROD)
        loaded = files_of_guest(parsed, profile=Profile.PROD, machines=BUILT_IN_ONLY)
        ids.add(loaded.document.group_id)
        names.append((loaded.config.node.name, str(loaded.config.bond.advertise)))

    assert len(ids) == 1
    assert len(set(names)) == 3


def test_the_unit_starts_a_td_on_the_bridge_and_starts_it_anew(tmp_path):
    service = unit()["Service"]
    words = shlex.split(service["ExecStart"])

    assert service["Restart"] == "always"
    assert unit()["Unit"]["StartLimitIntervalSec"] == "0"
    assert words[:3] == ["/opt/bondstone/.venv/bin/bondstone", "image", "run"]
    for wanted in (["--td"], ["--bridge", "br0"], ["--config", "/etc/bondstone/node.config"]):
        at = words.index(wanted[0])
        assert words[at : at + len(wanted)] == wanted
    # An unknown option is an error before help is given.
    assert CliRunner().invoke(app, [*words[2:], "--help"]).exit_code == 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path):
    # Its program is not installed here.
    file = tmp_path / UNIT.name
    file.write_text(UNIT.read_text().replace("/opt/bondstone/.venv/bin/bondstone", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert (done.returncode, UNIT.name in done.stderr) == (0, False), done.stderr
