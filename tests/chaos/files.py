"""The files that chaos gives its nodes."""

import json
from dataclasses import dataclass
from typing import Final

from attestation.policy.rules import REGISTERS
from node.dev import mock_measurement
from node.raft.budget import needed_for

_MEASUREMENT: Final = mock_measurement("chaos")

SMALL_QUOTA: Final = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What kind of nodes a cluster is made of.

    Attributes:
        trust_disk: they survive on their disks.
        lease_reads: strong reads may be answered under the leader's lease.
        demote_after_ms: how long a voter may be silent; None is the default.
        session_ttl_ms: how long sessions and idempotency keys are remembered; None is the default.
        machine: the state machine's name.
        state_sync: the signature of the machine's own state sync, if it has one.
        small_snapshots: a snapshot is due after 64 KiB of log, nothing of which stays: who was away needs one.
        small_memory: the memory budget is the least that a node starts with, and only its want cuts the log.
        recovery: a survivor may found a new generation.
        broken: one of ``broken.NAMES``, for tests of chaos itself.
    """

    trust_disk: bool = False
    lease_reads: bool = False
    demote_after_ms: int | None = None
    session_ttl_ms: int | None = None
    machine: str = "kv"
    state_sync: str | None = None
    small_snapshots: bool = False
    small_memory: bool = False
    recovery: bool = False
    broken: str | None = None


def document_text(kind: Kind, *, network: str, key: str, root: str, count: int) -> str:
    """Return the group document, without its tokens. ``count`` nodes found the group."""
    given = {"demote_after_ms": kind.demote_after_ms, "session_ttl_ms": kind.session_ttl_ms}
    times = "".join(f"{key} = {value}\n" for key, value in given.items() if value is not None)
    if kind.small_snapshots:
        times += "snapshot_bytes = 65536\nlog_keep_bytes = 0\nlog_keep_ms = 0\n"
    if kind.small_memory:
        times += f"snapshot_bytes = {2**40}\nlog_keep_bytes = {2**40}\n[store]\nquota_bytes = {SMALL_QUOTA}\n"
    sync = "" if kind.state_sync is None else f'state_sync = "{kind.state_sync}"\n'
    waived = [register for register in REGISTERS if register not in ("mrtd", "mrconfigid")]
    return f"""\
schema = 1
[network]
name = "{network}"
[group]
key = "{key}"
bootstrap = "expect {count}"
state_machine = "{kind.machine}"
{sync}\
storage = "{"trust-disk" if kind.trust_disk else "volatile"}"
[consensus]
min_voters = {count // 2 + 1}
lease_reads = {json.dumps(kind.lease_reads)}
{times}\
[recovery]
authorize = "{"survivor" if kind.recovery else "none"}"
[trust]
root = "{root}"
[policy.tcb]
accepted_statuses = ["UpToDate"]
[policy.ticket]
max_age_seconds = 3600
max_lifetime_seconds = 3600
[policy.reference_values]
not_checked = {json.dumps(waived)}
[policy.reference_values.baseline]
mrtd = "{_MEASUREMENT}"
mrconfigid = "own"
"""


def node_text(kind: Kind, *, name: str, api: str, bond: str, seeds: list[str]) -> str:
    """Return a node's own file."""
    host = api.rpartition(":")[0]
    memory = f"[memory]\nbudget_bytes = {needed_for(SMALL_QUOTA)}\n" if kind.small_memory else ""
    return f"""\
[node]
name = "{name}"
data_dir = "data"
[group]
document = "../group.toml"
key_file = "../group.key"
[api]
listen = "{api}"
names = ["{host}"]
[bond]
listen = "{bond}"
seeds = {json.dumps(seeds)}
{memory}\
[attestation]
mode = "mock"
[attestation.mock]
authority = "../authority"
mrtd = "{_MEASUREMENT}"
"""
