"""The header fields that the API reads of a request, found in one pass.

Each request needs several of them, at different places. A field that must not be repeated is refused where it
is needed, because only there it is known which answer the caller gets.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

AUTHORIZATION: Final = b"authorization"
CLUSTER: Final = b"bondstone-cluster"  # ``node.api.cluster_field``
IDEMPOTENCY_KEY: Final = b"idempotency-key"
# In an ASGI scope: its ``HeaderFields``, which ``node.api.app`` leaves there.
FIELDS: Final = "bondstone.fields"
_NONE: Final[frozenset[bytes]] = frozenset()


class HeaderFields(Struct, frozen=True, gc=False):
    """What the header fields of one request state. Of a repeated field, the last value.

    Attributes:
        authorization, cluster, content_type, idempotency_key: the value of the field; None: not sent.
        content_length: 0 if it is not sent.
        expects_continue: the client waits for ``100 Continue`` before it sends the body.
        repeated: the names of all fields that are sent more than once.
    """

    authorization: bytes | None
    cluster: bytes | None
    content_length: int
    content_type: bytes | None
    expects_continue: bool
    idempotency_key: bytes | None
    repeated: frozenset[bytes]

    def changed_to(self, headers: Sequence[tuple[bytes, bytes]], numbers: Iterable[int]) -> "HeaderFields":
        """Return what these fields state: those of this request, with other values at ``numbers``."""
        if self.repeated:  # of a repeated field the last one counts, which may be another one
            return read_header_fields(headers)
        length, key = self.content_length, self.idempotency_key
        for number in numbers:
            name, value = headers[number]
            if name == IDEMPOTENCY_KEY:
                key = value
            elif name == b"content-length":
                length = int(value)
        return HeaderFields(
            self.authorization,
            self.cluster,
            length,
            self.content_type,
            self.expects_continue,
            key,
            self.repeated,
        )


def read_header_fields(headers: Sequence[tuple[bytes, bytes]]) -> HeaderFields:
    """Return what these fields state. The names are in lower case, as ASGI gives them."""
    fields = dict(headers)
    get = fields.get
    return HeaderFields(
        get(AUTHORIZATION),
        get(CLUSTER),
        int(get(b"content-length", 0)),  # digits: the reading of the head refused all else
        get(b"content-type"),
        b"expect" in fields,
        get(IDEMPOTENCY_KEY),
        _NONE if len(fields) == len(headers) else _repeated(headers),
    )


def _repeated(headers: Sequence[tuple[bytes, bytes]]) -> frozenset[bytes]:
    seen: set[bytes] = set()
    return frozenset(name for name, _ in headers if name in seen or seen.add(name))  # type: ignore[func-returns-value]
