"""What several commands share: reading files with limits, finding the cluster, printing."""

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.text import Text

from attestation.trust import INTEL_SGX_ROOT, TrustRoot
from node.client import BondstoneClient
from node.errors import ConfigError

FILE_BYTES_MAX: Final = 16 * 1024 * 1024
DEV_DIRECTORY: Final = Path(".bondstone/dev")


def read_file(path: Path, *, what: str, bytes_max: int = FILE_BYTES_MAX) -> bytes:
    """Read a file that the user named.

    Raises:
        ConfigError: missing, unreadable or too large; exit code 2.
    """
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as exc:
        raise ConfigError(f"cannot read the {what} {path}: {exc.strerror}") from exc
    if len(data) > bytes_max:
        raise ConfigError(f"the {what} {path} is larger than {bytes_max} bytes")
    return data


def parse_time(text: str) -> datetime:
    """Parse Unix seconds, or ISO 8601 with a zone (``Z`` or an offset; none means UTC)."""
    try:
        if text.isascii() and text.isdigit():
            return datetime.fromtimestamp(int(text), UTC)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError) as exc:
        raise ConfigError(f"{text!r} is neither Unix seconds nor an ISO 8601 time") from exc
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def load_trust_root(text: str) -> TrustRoot:
    """``intel``, or the file of another root: an explicit, visible choice."""
    if text == "intel":
        return INTEL_SGX_ROOT
    return TrustRoot.from_bytes_untrusted(read_file(Path(text), what="trust root"))


def connect(url: list[str] | None, token: str | None, ca: Path | None) -> BondstoneClient:
    """Return a client from flags, then the environment, then the local cluster of ``bondstone dev``."""
    urls = url or (os.environ["BONDSTONE_URL"].split(",") if "BONDSTONE_URL" in os.environ else None)
    token = token or os.environ.get("BONDSTONE_TOKEN")
    ca_file = ca or (Path(os.environ["BONDSTONE_CA"]) if "BONDSTONE_CA" in os.environ else None)
    settings = DEV_DIRECTORY / "client.json"
    if settings.exists() and not urls:
        found = json.loads(read_file(settings, what="client settings"))
        urls = found["urls"]
        ca_file = ca_file or Path(found["ca"])
        token = token or read_file(Path(found["token_file"]), what="token").decode().strip()
    if not urls:
        raise ConfigError(
            "which cluster? hint: --url https://HOST:PORT --token TOKEN --ca FILE, or BONDSTONE_URL, "
            "BONDSTONE_TOKEN and BONDSTONE_CA, or run it beside a cluster of `bondstone dev`"
        )
    if ca_file is None:
        raise ConfigError("which certificates to trust? hint: --ca FILE or BONDSTONE_CA")
    if not ca_file.exists():
        raise ConfigError(f"cannot read the certificates {ca_file}")
    return BondstoneClient(urls, token=token, ca=ca_file)


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2, default=_hexed)
    sys.stdout.write("\n")


def _hexed(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(type(value).__name__)


def visible(text: str) -> Text:
    """Return foreign text for a terminal: its control characters are escaped, and nothing in it is markup."""
    return Text("".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text))
