"""The endpoints that nearly all requests are for: they are served in front of the router.

A router compares patterns and makes an object of each request and each answer. For a command or a query that
costs more than everything else in the API. These endpoints take the same scope as all others, and go through
the same gate, limits and readers of bodies. ``node.api.operations`` describes them beside the others.
"""

from collections.abc import Awaitable
from typing import Final, Protocol

from msgspec import Struct
from starlette.types import Receive, Scope

CONTENT_TYPE: Final = (b"content-type", b"application/json")


class HotAnswer(Struct, frozen=True, gc=False):
    """An answer to be sent whole."""

    status: int
    fields: list[tuple[bytes, bytes]]
    content: bytes


class HotEndpoint(Protocol):
    """Answers the requests of one path. Their method is one of the path's. Raises ``ProblemError``."""

    def __call__(self, scope: Scope, receive: Receive) -> Awaitable[HotAnswer]: ...


def content_length(content: bytes) -> tuple[bytes, bytes]:
    """Return the header field."""
    return b"content-length", b"%d" % len(content)
