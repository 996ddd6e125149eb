"""The files that chaos gives its nodes."""

import json
from dataclasses import dataclass
from typing import Final

from attestation.policy_rules import REGISTERS
from node.dev import mock_measurement

_MEASUREMENT: Final = mock_measurement("chaos")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What kind of nodes a cluster is made of.

    Attributes:
        trust_disk: they survive on their disks.
        lease_reads: strong reads may be answered under the leader's lease.
        demote_after_ms: how long a voter may be silent; None is the default.
        session_ttl_ms: how long sessions and idempotency keys are remembered; None is the default.
        machine: the state machine's name.
        broken: one of ``broken.NAMES``, for tests of chaos itself.
    """

    trust_disk: bool = False
    lease_reads: bool = False
    demote_after_ms: int | None = None
    session_ttl_ms: int | None = None
    machine: str = "kv"
    broken: str | None = None


def policy_text() -> str:
    waived = [register for register in REGISTERS if register != "mrtd"]
    return f"""\
version = 1
[tcb]
accepted_statuses = ["UpToDate"]
[ticket]
max_age_seconds = 3600
max_lifetime_seconds = 3600
[reference_values]
not_checked = {json.dumps(waived)}
[reference_values.baseline]
mrtd = "{_MEASUREMENT}"
"""


def config_text(
    kind: Kind, *, name: str, api: str, bond: str, seeds: list[str], network: str, count: int
) -> str:
    """Return a node's configuration. ``count`` nodes found the group."""
    host = api.rpartition(":")[0]
    given = {"demote_after_ms": kind.demote_after_ms, "session_ttl_ms": kind.session_ttl_ms}
    times = "".join(f"{key} = {value}\n" for key, value in given.items() if value is not None)
    return f"""\
[node]
name = "{name}"
data_dir = "data"
[api]
listen = "{api}"
names = ["{host}"]
tokens_file = "../access.toml"
[bond]
listen = "{bond}"
seeds = {json.dumps(seeds)}
[network]
name = "{network}"
[group]
key_file = "../group.key"
bootstrap = "expect {count}"
state_machine = "{kind.machine}"
[consensus]
min_voters = {count // 2 + 1}
trust_disk = {json.dumps(kind.trust_disk)}
lease_reads = {json.dumps(kind.lease_reads)}
{times}\
[attestation]
mode = "mock"
policy = "../policy.toml"
[attestation.mock]
authority = "../authority"
mrtd = "{_MEASUREMENT}"
"""
