"""The files of a group of emulated guests: one mock authority, one group document, one node file each."""

import functools
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
from node.group.identity import GroupKey
from node.group_document import GroupDocument, load_group_document
from node.tokens import AccessRole, new_token, render_token_entry

GUEST_DATA = "/run/bondstone/data"

_RULES = """\
[{0}tcb]
accepted_statuses = ["UpToDate"]

[{0}ticket]
max_age_seconds = 3600
max_lifetime_seconds = 3600

"""


class EmulatedGroup:
    """Writes the files of one run's guests below ``folder``; keeps authority and token between runs."""

    def __init__(
        self,
        folder: Path,
        images: list[BuiltImage],
        *,
        allow_debug: bool,
        await_key: bool = False,
        founders: int | None = None,
    ) -> None:
        for image in images:
            _require_mock(image)
        self.folder = folder
        self._images = images
        self._await_key = await_key
        folder.mkdir(parents=True, exist_ok=True)
        self._authority = folder / "authority"
        if not self._authority.exists():
            MockAuthority.create(datetime.now(UTC)).save(self._authority)
        self.token_file = folder / "token"
        if not self.token_file.exists():
            self.token_file.touch(mode=0o600)
            self.token_file.write_text(new_token() + "\n")
        self.key_file = folder / "group.key"
        if not self.key_file.exists():
            self.key_file.touch(mode=0o600)
            self.key_file.write_text(GroupKey.generate().secret.hex() + "\n")
        self.policy_file = folder / "policy.toml"
        # Emulation has no RTMR[0] of its own: the mock TD reports its configured value.
        fragment = functools.partial(
            policy_fragment,
            images[0].published(),
            boot=Boot.DIRECT,
            waive_rtmr0=True,
            allowed={Profile.EMULATION, Profile.DEBUG} if allow_debug else {Profile.EMULATION},
        )
        self.policy_file.write_text("version = 1\n\n" + _RULES.format("") + fragment())
        self.document_file = folder / "group.toml"
        self.document_file.write_text(
            _group_toml(
                network=f"images-{secrets.token_hex(8)}",
                key=GroupKey.from_hex(self.key_file.read_text()).public_digest.hex()
                if await_key
                else "derived",
                founders=len(images) if founders is None else founders,
                root=self.trust_root_file.read_bytes().hex(),
                policy=_RULES.format("policy.") + fragment(in_group_document=True),
            )
            + render_token_entry("operator", self.token_file.read_text().strip(), [AccessRole.ADMIN])
        )
        self._measured: dict[Path, Measurements] = {}

    @property
    def trust_root_file(self) -> Path:
        return self._authority / "trust-root.der"

    @property
    def document(self) -> GroupDocument:
        return load_group_document(self.document_file)

    def config_of(self, number: int) -> Path:
        """Write the configuration of a guest; return its file."""
        image = self._images[number]
        if image.folder not in self._measured:
            self._measured[image.folder] = image.measure()
        measured = self._measured[image.folder]
        files = {
            "node.toml": _node_toml(number, len(self._images), measured, await_key=self._await_key),
            "group.toml": self.document_file.read_text(),
        }
        for file in sorted(self._authority.glob("*.pem")):
            files[f"authority/{file.name}"] = file.read_text()
        document = encode_guest_config(files, addresses={"eth1": f"{_address(number)}/24"})
        path = self.folder / f"node-{number}.config"
        path.write_bytes(document)
        return path


def _require_mock(image: BuiltImage) -> None:
    if not image.profile.has_mock:
        raise BuildError(
            f"{image.folder} is a production image, which holds no mock TD, and needs TDX (--td)",
            hint="bondstone image build --profile emulation, and run that",
        )


def _address(number: int) -> str:
    return f"10.77.0.{number + 1}"


def _group_toml(*, network: str, key: str, founders: int, root: str, policy: str) -> str:
    return f"""\
schema = 1

[network]
name = "{network}"

[group]
key = "{key}"
state_machine = "kv"
bootstrap = "expect {founders}"

[consensus]
# Emulated processors are slow and share the host's: be patient before calling an election.
heartbeat_ms = 500
election_timeout_ms = 5000
election_jitter_ms = 2500
demote_after_ms = 15000
demote_lag_ms = 20000
min_voters = {min(2, founders)}

[store]
# Of a guest of 512 MiB the node may use half, and a full store with its snapshots takes three times this.
quota_bytes = 16777216

[trust]
root = "{root}"

{policy}
"""


def _node_toml(number: int, count: int, measured: Measurements, *, await_key: bool) -> str:
    """Make the mock TD report the measurements of the files that run."""
    boot = measured.boots[Boot.DIRECT]
    seeds = [f"{_address(other)}:{BOND_PORT}" for other in range(count) if other != number]
    return f"""\
[node]
name = "node-{number}"
data_dir = "{GUEST_DATA}"

[group]
document = "group.toml"
await_key = {json.dumps(await_key)}

[api]
listen = "0.0.0.0:{API_PORT}"

[bond]
listen = "0.0.0.0:{BOND_PORT}"
advertise = ["{_address(number)}:{BOND_PORT}"]
seeds = {json.dumps(seeds)}

[attestation]
mode = "mock"

[attestation.mock]
authority = "authority"
mrtd = "{measured.mrtd[PageOrder.INTERLEAVED].hex()}"
rtmr1 = "{boot.rtmr1.hex()}"
rtmr2 = "{boot.rtmr2.hex()}"
"""
