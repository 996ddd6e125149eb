"""Which cluster a program uses, from its arguments, its environment, and what `bondstone dev` wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from attestation import files
from attestation.files import FileError
from node.environment import checked_token, read_environment
from node.errors import ConfigError

SETTINGS_BYTES_MAX: Final = 64 * 1024
DEV_DIRECTORY: Final = Path(".bondstone/dev")


class _ClientSettings(msgspec.Struct, frozen=True):
    """``client.json``, which `bondstone dev` and `bondstone verify --save` write."""

    urls: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    ca: str
    token_file: str | None = None
    cluster: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Which nodes a client asks, and what it needs for that."""

    urls: tuple[str, ...]
    token: str | None
    ca: Path
    cluster: str | None


def settings_of(
    url: Sequence[str] | None = None, token: str | None = None, ca: Path | None = None
) -> Destination:
    """Return the settings: each as it is given, otherwise from the environment, then from ``client.json``.

    That file is ``BONDSTONE_CLUSTER``, or the one of `bondstone dev` in this directory. Its token and its
    cluster belong to its nodes: they are used only together with its certificates.

    Raises:
        ConfigError: something is missing or malformed.
    """
    environment = read_environment()
    urls = tuple(url or environment.urls)
    token = checked_token(token, where="--token") if token else environment.token
    ca_file = ca or environment.ca
    settings = _client_settings(environment.cluster)
    cluster: str | None = None
    if settings is not None:
        urls = urls or settings.urls
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
    return Destination(urls=urls, token=token, ca=ca_file, cluster=cluster)


def settings_of_dev(directory: Path) -> Destination:
    """Return the settings that `bondstone dev` wrote into its directory.

    Raises:
        ConfigError: it did not, or they are malformed.
    """
    settings = _client_settings(directory / "client.json")
    assert settings is not None, "a file that is named is read, or the reason is raised"
    return Destination(
        urls=settings.urls, token=_token_of(settings), ca=Path(settings.ca), cluster=settings.cluster
    )


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
