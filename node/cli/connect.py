"""The client of a command, for the cluster that its flags name."""

from pathlib import Path

from node.client import Client
from node.client.settings import settings_of


def connect(url: list[str] | None, token: str | None, ca: Path | None) -> Client:
    """Return a client; see ``settings_of`` for what the flags leave out.

    Raises:
        ConfigError: something is missing or malformed.
    """
    target = settings_of(url, token, ca)
    return Client(target.urls, token=target.token, ca=target.ca, cluster=target.cluster)
