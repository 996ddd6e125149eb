"""Functions that several commands share: reading files with limits, finding the cluster, printing."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec

from attestation import files
from attestation.errors import MalformedError
from attestation.files import FileError
from attestation.policy.rules import AppraisalPolicy
from attestation.policy.toml import load_policy_untrusted
from attestation.x509.trust import INTEL_SGX_ROOT, TrustRoot
from node.cli.output import print_json
from node.client import BondstoneClient
from node.environment import checked_token, read_environment
from node.errors import ConfigError

__all__ = ["print_json"]

FILE_BYTES_MAX: Final = 16 * 1024 * 1024
SETTINGS_BYTES_MAX: Final = 64 * 1024
DEV_DIRECTORY: Final = Path(".bondstone/dev")


def read_file(path: Path, *, what: str, bytes_max: int = FILE_BYTES_MAX, secret: bool = False) -> bytes:
    """Read a file that the user named.

    Raises:
        ConfigError: the file is missing, unreadable, too large or not a regular file; exit code 2.
    """
    try:
        return files.read_bytes(path, bytes_max=bytes_max, secret=secret)
    except FileError as exc:
        raise ConfigError(f"the {what}: {exc}") from exc


def write_file(path: Path, data: bytes) -> None:
    """Write a file that the user requested.

    Raises:
        ConfigError: the file cannot be written; exit code 2.
    """
    try:
        files.write_output(path, data)
    except FileError as exc:
        raise ConfigError(str(exc)) from exc


def parse_time(text: str) -> datetime:
    """Parse Unix seconds, or ISO 8601 with a zone (``Z`` or an offset; without one, UTC)."""
    try:
        if text.isascii() and text.isdigit():
            return datetime.fromtimestamp(int(text), UTC)
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise ConfigError(f"{text!r} is neither Unix seconds nor an ISO 8601 time") from exc


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


class _ClientSettings(msgspec.Struct, frozen=True):
    """``client.json``, which `bondstone dev` and `bondstone verify --save` write."""

    urls: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    ca: str
    token_file: str | None = None
    cluster: str | None = None


def connect(url: list[str] | None, token: str | None, ca: Path | None) -> BondstoneClient:
    """Return a client. Each setting comes from the flags, otherwise the environment, then ``client.json``.

    That file is ``BONDSTONE_CLUSTER``, or the one of `bondstone dev` in this directory. Its token and its
    cluster belong to its nodes: they are used only together with its certificates.

    Raises:
        ConfigError: something is missing or malformed.
    """
    environment = read_environment()
    urls = list(url or environment.urls)
    token = checked_token(token, where="--token") if token else environment.token
    ca_file = ca or environment.ca
    settings = _client_settings(environment.cluster)
    cluster: str | None = None
    if settings is not None:
        urls = urls or list(settings.urls)
        if ca_file is None:
            ca_file = Path(settings.ca)
            token = token or _token_of(settings)
            cluster = settings.cluster
    if not urls:
        raise ConfigError(
            "which cluster? hint: --url https://HOST:PORT --token TOKEN --ca FILE, or BONDSTONE_URL, "
            "BONDSTONE_TOKEN and BONDSTONE_CA, or BONDSTONE_CLUSTER, or run it beside a cluster of "
            "`bondstone dev`"
        )
    if ca_file is None:
        raise ConfigError(
            "which certificates to trust? hint: --ca FILE or BONDSTONE_CA; "
            "`bondstone verify … --save DIR` writes one for a node that it has verified"
        )
    return BondstoneClient(urls, token=token, ca=ca_file, cluster=cluster)


def _client_settings(named: Path | None) -> _ClientSettings | None:
    path = named or DEV_DIRECTORY / "client.json"
    try:
        data = files.read_bytes(path, bytes_max=SETTINGS_BYTES_MAX)
    except FileError as exc:
        if named is None and exc.absent:
            return None
        raise ConfigError(f"the client settings: {exc}") from exc
    try:
        return msgspec.json.decode(data, type=_ClientSettings)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"the client settings {path}: {exc}") from exc


def _token_of(settings: _ClientSettings) -> str | None:
    if settings.token_file is None:
        return None
    try:
        text = files.read_text(Path(settings.token_file), bytes_max=SETTINGS_BYTES_MAX, secret=True)
    except FileError as exc:
        raise ConfigError(f"the token: {exc}") from exc
    return checked_token(text.strip(), where=settings.token_file)
