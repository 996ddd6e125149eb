"""The watches of a node on its event loop: who waits for answers is woken after each step of the member."""

import asyncio
from collections.abc import Callable

from node.watch.history import History
from node.watch.hub import WatchHub
from node.watch.stream import WatchStream
from node.watch.values import Permits


class Watching:
    """One for each node. Used on the event loop alone.

    Args:
        history: of the node's machine.
        cluster: returns what names the cluster that the history belongs to.
    """

    def __init__(self, history: History, cluster: Callable[[], object]) -> None:
        self.hub = WatchHub(history)
        self._cluster = cluster
        self._of = cluster()
        self._scheduled = False
        self._wakers: dict[WatchStream, asyncio.Event] = {}

    def stepped(self) -> None:
        """Look soon: to be called after each step of the member, which no failure here may reach."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.look)

    def look(self) -> None:
        """Wake every stream that has something to send now."""
        self._scheduled = False
        woken = self.hub.stepped()
        cluster = self._cluster()
        if cluster != self._of:
            # The same revisions may stand for other events now.
            self._of = cluster
            woken = self.hub.reset()
        for stream in woken:
            self._wakers[stream].set()

    def attach(self, owner: bytes, permits: Permits) -> tuple[WatchStream, asyncio.Event]:
        """Return a new stream of a client, and what is set when there may be something to take."""
        stream = self.hub.attach(owner, permits)
        waker = self._wakers[stream] = asyncio.Event()
        return stream, waker

    def close(self, stream: WatchStream) -> None:
        """End a stream with all its watches."""
        stream.close()
        self._wakers.pop(stream, None)
