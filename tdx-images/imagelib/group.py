"""The configuration of a group of emulated guests: one mock authority, one policy, one document per node."""

import hashlib
import json
import secrets
from datetime import UTC, datetime
from pathlib import Path

from enclave.image.config import Profile, encode_guest_config
from enclave.image.folder import BuiltImage
from enclave.image.fragment import policy_fragment
from enclave.image.measurements import Measurements
from enclave.image.rtmr import Boot
from enclave.image.tdvf import PageOrder
from enclave.mock.authority import MockAuthority
from imagelib.errors import BuildError
from imagelib.qemu import API_PORT, BOND_PORT
from node.tokens import AccessRole, new_token, render_token_entry

GUEST_CONFIG = "/run/bondstone/config"
GUEST_DATA = "/run/bondstone/data"

_RULES = """\
version = 1

[tcb]
accepted_statuses = ["UpToDate"]

[ticket]
max_age_seconds = 3600
max_lifetime_seconds = 3600

"""


class EmulatedGroup:
    """Writes what the guests of one run need below ``folder``; keeps authority and token between runs."""

    def __init__(
        self, folder: Path, images: list[BuiltImage], *, allow_debug: bool, await_key: bool = False
    ) -> None:
        for image in images:
            _require_mock(image)
        self.folder = folder
        self._images = images
        self._key = "await_key" if await_key else "derive_key"
        folder.mkdir(parents=True, exist_ok=True)
        self._authority = folder / "authority"
        if not self._authority.exists():
            MockAuthority.create(datetime.now(UTC)).save(self._authority)
        self.token_file = folder / "token"
        if not self.token_file.exists():
            self.token_file.touch(mode=0o600)
            self.token_file.write_text(new_token() + "\n")
        self.policy_file = folder / "policy.toml"
        # Emulation has no RTMR[0] of its own: the mock TD says what it is configured to say.
        fragment = policy_fragment(
            images[0].published(),
            boot=Boot.DIRECT,
            waive_rtmr0=True,
            allowed={Profile.EMULATION, Profile.DEBUG} if allow_debug else {Profile.EMULATION},
        )
        self.policy_file.write_text(_RULES + fragment)
        self._network = f"images-{secrets.token_hex(8)}"
        self._measured: dict[Path, Measurements] = {}

    @property
    def trust_root_file(self) -> Path:
        return self._authority / "trust-root.der"

    def config_of(self, number: int) -> tuple[Path, bytes]:
        """Write the document of a node; return its file and its SHA-384."""
        image = self._images[number]
        if image.folder not in self._measured:
            self._measured[image.folder] = image.measure()
        measured = self._measured[image.folder]
        token = self.token_file.read_text().strip()
        files = {
            "node.toml": _node_toml(number, len(self._images), self._network, measured, key=self._key),
            "policy.toml": self.policy_file.read_text(),
            "access.toml": render_token_entry("operator", token, [AccessRole.ADMIN]),
        }
        for file in sorted(self._authority.glob("*.pem")):
            files[f"authority/{file.name}"] = file.read_text()
        document = encode_guest_config(files, addresses={"eth1": f"{_address(number)}/24"})
        path = self.folder / f"node-{number}.config"
        path.write_bytes(document)
        return path, hashlib.sha384(document).digest()


def _require_mock(image: BuiltImage) -> None:
    if not image.profile.has_mock:
        raise BuildError(
            f"{image.folder} is a production image, which holds no mock TD, and needs TDX (--td)",
            hint="bondstone image build --profile emulation, and run that",
        )


def _address(number: int) -> str:
    return f"10.77.0.{number + 1}"


def _node_toml(number: int, count: int, network: str, measured: Measurements, *, key: str) -> str:
    """The mock TD says of itself what the very files that run have been measured to be."""
    boot = measured.boots[Boot.DIRECT]
    seeds = [f"{_address(other)}:{BOND_PORT}" for other in range(count) if other != number]
    return f"""\
[node]
name = "node-{number}"
data_dir = "{GUEST_DATA}"

[api]
listen = "0.0.0.0:{API_PORT}"
tokens_file = "access.toml"

[bond]
listen = "0.0.0.0:{BOND_PORT}"
advertise = ["{_address(number)}:{BOND_PORT}"]
seeds = {json.dumps(seeds)}

[network]
name = "{network}"

[group]
{key} = true
state_machine = "kv"
bootstrap = "expect {count}"

[consensus]
# Emulated processors are slow and share the host's: be patient before calling an election.
heartbeat_ms = 500
election_timeout_ms = 5000
election_jitter_ms = 2500
demote_after_ms = 15000
demote_lag_ms = 20000
min_voters = {min(2, count)}

[attestation]
mode = "mock"
policy = "policy.toml"

[attestation.mock]
authority = "authority"
mrtd = "{measured.mrtd[PageOrder.INTERLEAVED].hex()}"
rtmr1 = "{boot.rtmr1.hex()}"
rtmr2 = "{boot.rtmr2.hex()}"
"""
