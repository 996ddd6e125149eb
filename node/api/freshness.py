"""No request outlives the memory that makes it happen once.

An Idempotency-Key works because the group remembers it, for its ``session_ttl_ms``. Whoever has the network
can hold a request back for longer, after its sender has long repeated it at another node; so its age counts
when it is handed to the group, not whether its key is known.

How old a request is nobody can say, but how old at most: its sender wrote it after the answer to his last
request on that connection or, if it is the first, after the server's part of the TLS handshake. A sender that
does not wait for answers (pipelining) gives the older bound.

From the sending of the first copy of a command: the last copy is sent within ``REPEATED_OF_TTL`` (the
client's duty), and handed to the group within ``AGE_OF_TTL`` of that (checked here). Three quarters of a
TTL are less than 0.83 of it by the group's clock, which may go a tenth faster than time. From there the entry
itself says how late it may be executed: an eighth later, whatever holds it back among the members
(``WAY_OF_TTL`` in ``node/raft/origin.py``).
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
    """Return for how long this request may still be handed to the group, if it has an Idempotency-Key.

    Args:
        scope: has ``SENT_AFTER``; a server that does not say it cannot serve such requests.
        limits: of the API.
        now_s: ``boot_time_s`` now.

    Raises:
        ProblemError: 503, its copies may have been forgotten by the time it is executed.
    """
    left_s = limits.keyed_age_s_max - (now_s - scope["state"][SENT_AFTER])
    if left_s <= 0:
        raise not_executed(NotExecuted("stale"))
    return float(left_s)
