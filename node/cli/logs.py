"""The log of a node on stderr: one line per message, no active control characters, and no floods.

A client that can open a connection can cause a message, for example by a bad request or a failed handshake.
So each kind of message has a ration: a burst, and later one message now and then, which reports how many were
left out. The logger and the text before values are inserted make the kind.
"""

import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from node.cli.output import VisibleFormatter

BURST: Final = 20
INTERVAL_S: Final = 10.0
# A kind is a fixed text of the program, but a library may put values into its texts.
KINDS_MAX: Final = 1024


class _Kind:
    __slots__ = ("earned_at", "left_out", "tokens")

    def __init__(self, now: float) -> None:
        self.tokens = BURST
        self.earned_at = now
        self.left_out = 0


class Ration(logging.Filter):
    """Lets through a burst of each kind of message, then one per ``INTERVAL_S``, and all of DEBUG.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: OrderedDict[tuple[str, str], _Kind] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the message is logged. Add to it how many of its kind were left out."""
        if record.levelno < logging.INFO:
            return True
        now = self._clock()
        kind = self._kind_of((record.name, str(record.msg)), now)
        earned = int((now - kind.earned_at) / INTERVAL_S)
        if earned > 0:
            kind.tokens = min(kind.tokens + earned, BURST)
            kind.earned_at += earned * INTERVAL_S
        if kind.tokens == 0:
            kind.left_out += 1
            return False
        kind.tokens -= 1
        if kind.left_out:
            record.msg = f"{record.getMessage()} (and {kind.left_out} more like this)"
            record.args = None
            kind.left_out = 0
        return True

    def _kind_of(self, key: tuple[str, str], now: float) -> _Kind:
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(now)
            if len(self._kinds) > KINDS_MAX:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end(key)
        return kind


def log_to_stderr(level: int) -> None:
    """Set up the logging of this process for its whole life."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(VisibleFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    handler.addFilter(Ration())
    logging.basicConfig(level=level, handlers=[handler])
