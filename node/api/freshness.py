"""No request outlives the memory that makes it happen once.

An Idempotency-Key works because the group remembers it, for its ``session_ttl_ms``. An attacker that controls
the network can hold a request back for longer, while its sender repeats it at another node. So the age of a
request decides at the moment when the node gives it to the group, not whether the group knows its key.

The node cannot know how old a request is, but it knows an upper bound. The client wrote the request after the
answer to its last request on that connection. If it is the first request, the client wrote it after the
server's part of the TLS handshake. For a client that does not wait for answers (pipelining) the older bound
counts. Over HTTP/2, where no client waits for answers, the server sends pings: the client wrote what arrives
behind the answer to a ping after the ping was sent.

From the sending of the first copy of a command: the last copy is sent within ``REPEATED_OF_TTL`` (the
client's duty), and handed to the group within ``AGE_OF_TTL`` of that (checked here). Three quarters of a
TTL are less than 0.83 of it by the group's clock, which may go a tenth faster than time. From there on the
entry itself carries its latest time of execution: an eighth later, whatever delays it among the members
(``NOT_AFTER_DIVISOR`` in ``node/raft/client_session.py``).
"""

import time
from typing import Any, Final

from node.api.limits import ApiLimits
from node.api.outcomes import not_executed
from node.raft.types import NotExecuted

# In the ASGI scope's state, which is the request's own: the ``boot_time_s`` after which the request was sent.
SENT_AFTER: Final = "bondstone.sent-after"


def boot_time_s() -> float:
    """Return seconds that go on while the machine sleeps, as ``time.monotonic`` does not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def time_left_s(scope: Any, limits: ApiLimits, now_s: float) -> float:
    """Return for how long the node may still give this request to the group, if it has an Idempotency-Key.

    Args:
        scope: has ``SENT_AFTER``. A server that does not set it cannot serve such requests.
        limits: of the API.
        now_s: ``boot_time_s`` now.

    Raises:
        ProblemError: 503, its copies may have been forgotten by the time it is executed.
    """
    left_s = limits.keyed_age_s_max - (now_s - scope["state"][SENT_AFTER])
    if left_s <= 0:
        raise not_executed(NotExecuted("stale"))
    return float(left_s)
