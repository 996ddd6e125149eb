"""Group documents and node files for tests."""

from pathlib import Path

from node.config import NodeConfig, parse_config
from node.group_document import GroupDocument, parse_group_document_untrusted

MRTD = "ab" * 48
KEY_DIGEST = "c0" * 32

MINIMAL = f"""
schema = 1
[network]
name = "n"
[group]
key = "derived"
bootstrap = "expect 3"
[policy.tcb]
accepted_statuses = ["UpToDate"]
[policy.ticket]
max_age_seconds = 3600
max_lifetime_seconds = 3600
[policy.reference_values]
not_checked = ["rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig"]
[policy.reference_values.baseline]
mrtd = "{MRTD}"
mrconfigid = "own"
"""

NODE = """
[node]
name = "a"
data_dir = "data"
[group]
document = "group.toml"
[bond]
listen = "127.0.0.1:7000"
seeds = ["10.0.0.1:7000", "[::1]:7001"]
[attestation]
mode = "mock"
[attestation.mock]
authority = "authority"
"""


def document(text: str = MINIMAL) -> GroupDocument:
    return parse_group_document_untrusted(text.encode(), where="group.toml")


def node_config(text: str = NODE) -> NodeConfig:
    return parse_config(text.encode(), where="node.toml", base=Path("/base"))
