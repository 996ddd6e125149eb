"""The process' environment: these variables and no others have an effect, and they are checked at start.

Proxies (``HTTP_PROXY`` and the like) and trust stores (``SSL_CERT_FILE``) are not among them. A node's or a
client's trust, and its proxy, are set in its configuration or on its command line.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from node.errors import ConfigError

# Name -> purpose, as the documentation lists them.
VARIABLES: Final = {
    "BONDSTONE_URL": "the nodes' APIs, https://HOST:PORT, several separated by commas (as --url)",
    "BONDSTONE_TOKEN": "the bearer token (as --token)",
    "BONDSTONE_CA": "the file with the nodes' API certificates, PEM (as --ca)",
    "BONDSTONE_CLUSTER": "a file client.json, as `bondstone dev` writes it, for what the others leave out",
    "BONDSTONE_PINS": "the file in which `verify` remembers verified clusters (as --pins)",
    "BONDSTONE_LOG": "what `node run` logs: DEBUG, INFO (the default), WARNING, ERROR or CRITICAL",
    "BONDSTONE_BUILD_DATE": "when the image was built, Unix seconds: no earlier time is believed",
    "XDG_STATE_HOME": "where `verify` keeps its own file of them, if it is an absolute path",
}
LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
TOKEN_CHARACTERS_MAX: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEnvironment:
    """The variables, checked. One that is not set, or empty, is None or its default."""

    urls: tuple[str, ...] = ()
    token: str | None = None
    ca: Path | None = None
    cluster: Path | None = None
    pins: Path | None = None
    state_home: Path | None = None
    log_level: int = logging.INFO
    build_date: datetime | None = None


def read_environment(variables: Mapping[str, str] = os.environ) -> ProcessEnvironment:
    """Return the values of the variables.

    Raises:
        ConfigError: one is malformed; the message names it.
    """
    given = {name: variables[name] for name in VARIABLES if variables.get(name)}
    token = given.get("BONDSTONE_TOKEN")
    return ProcessEnvironment(
        urls=_urls(given.get("BONDSTONE_URL")),
        token=None if token is None else checked_token(token, where="BONDSTONE_TOKEN"),
        ca=_path(given.get("BONDSTONE_CA")),
        cluster=_path(given.get("BONDSTONE_CLUSTER")),
        pins=_path(given.get("BONDSTONE_PINS")),
        state_home=_absolute(given.get("XDG_STATE_HOME")),
        log_level=_log_level(given.get("BONDSTONE_LOG", "INFO")),
        build_date=_build_date(given.get("BONDSTONE_BUILD_DATE")),
    )


def checked_token(token: str, *, where: str) -> str:
    """Return a bearer token that fits in a header. Raises ConfigError, which does not show the token."""
    if not token.isascii() or not token.isprintable() or " " in token or len(token) > TOKEN_CHARACTERS_MAX:
        raise ConfigError(
            f"{where} is no bearer token: at most {TOKEN_CHARACTERS_MAX} printable ASCII characters"
        )
    return token


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _absolute(text: str | None) -> Path | None:
    """Return a path; None for a relative one, which is ignored (XDG base directory specification)."""
    return None if text is None or not text.startswith("/") else Path(text)


def _urls(text: str | None) -> tuple[str, ...]:
    urls = tuple(part.strip() for part in text.split(",")) if text else ()
    if any(not url.startswith("https://") for url in urls):
        raise ConfigError(f"BONDSTONE_URL is {text!r}: every address in it begins with https://")
    return urls


def _log_level(text: str) -> int:
    if text.upper() not in LOG_LEVELS:
        raise ConfigError(f"BONDSTONE_LOG is {text!r}, not one of {', '.join(LOG_LEVELS)}")
    return int(logging.getLevelNamesMapping()[text.upper()])


def _build_date(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        if not text.isascii() or not text.isdigit():
            raise ValueError(text)
        return datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise ConfigError(f"BONDSTONE_BUILD_DATE is {text!r}, not Unix seconds") from exc
