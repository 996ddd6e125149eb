"""What a user names: files with limits, policies and roots."""

from pathlib import Path
from typing import Final

from attestation import files
from attestation.errors import MalformedError
from attestation.files import FileError
from attestation.policy.rules import AppraisalPolicy
from attestation.policy.toml import load_policy_untrusted
from attestation.x509.trust import INTEL_SGX_ROOT, TrustRoot
from node.errors import ConfigError

FILE_BYTES_MAX: Final = 16 * 1024 * 1024


def read_file(path: Path, *, what: str, bytes_max: int = FILE_BYTES_MAX, secret: bool = False) -> bytes:
    """Read a file that the user named.

    Raises:
        ConfigError: the file is missing, unreadable, too large or not a regular file; exit code 2.
    """
    try:
        return files.read_bytes(path, bytes_max=bytes_max, secret=secret)
    except FileError as exc:
        raise ConfigError(f"the {what}: {exc}") from exc


def load_policy(path: Path, *, tickets: bool = True) -> AppraisalPolicy:
    """Read an appraisal policy. Without ``tickets`` it is for a bare quote.

    Raises:
        ConfigError: the policy cannot be read, or is malformed; exit code 2.
    """
    try:
        return load_policy_untrusted(read_file(path, what="policy"), tickets=tickets)
    except MalformedError as exc:
        raise ConfigError(f"{path}: {exc}") from exc


def load_trust_root(text: str) -> TrustRoot:
    """``intel``, or the file of another root: an explicit, visible choice."""
    if text == "intel":
        return INTEL_SGX_ROOT
    try:
        return TrustRoot.from_bytes_untrusted(read_file(Path(text), what="trust root"))
    except MalformedError as exc:
        raise ConfigError(f"{text}: {exc}") from exc
