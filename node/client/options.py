"""What both clients take, and the limits that they share."""

from collections.abc import Callable, Sequence
from typing import Final

from node.api.limits import REPEATED_OF_TTL
from node.client.channel import checked_url
from node.client.exchange import Exchange, cluster_text
from node.errors import ConfigError

DEADLINE_S_DEFAULT: Final = 15.0
ATTEMPT_TIMEOUT_S_DEFAULT: Final = 12.0  # a node gives up on a command after 10 s
CONNECT_TIMEOUT_S: Final = 3.0
SESSION_TTL_S_DEFAULT: Final = 60.0


def new_exchange(
    urls: Sequence[str],
    *,
    token: str | None,
    cluster: str | None,
    deadline_s: float,
    session_ttl_s: float,
    clock: Callable[[], float],
) -> Exchange:
    """Return the exchange of a client with these options (see ``Client``).

    Raises:
        ConfigError: there is no URL, or one of them, or the cluster, is malformed.
    """
    if not urls:
        raise ConfigError("give at least one URL, each beginning with https://")
    exchange = Exchange(
        [checked_url(url) for url in urls],
        headers={} if token is None else {"authorization": f"Bearer {token}"},
        deadline_s=deadline_s,
        # The client may send a copy up to two connect timeouts (TCP, then TLS) after it decided to.
        repeat_s=session_ttl_s * REPEATED_OF_TTL - 2 * CONNECT_TIMEOUT_S,
        clock=clock,
    )
    if cluster is not None:
        exchange.cluster = cluster_text(cluster)
    return exchange
