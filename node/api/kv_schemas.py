"""The JSON of ``/v1/kv``, beside ``node.api.schemas``."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from node.api.schemas import At, Base64


class KvItem(msgspec.Struct, frozen=True, kw_only=True):
    key_b64: Base64
    value_b64: Annotated[Base64 | None, Meta(description="Null with `keys_only`.")]
    create_revision: int
    mod_revision: Annotated[int, Meta(description="The ETag of this key.")]
    version: Annotated[int, Meta(description="How often it was written since it was created.")]
    lease: Annotated[int, Meta(description="0: none.")]


class KvPage(msgspec.Struct, frozen=True, kw_only=True):
    """Keys of one revision of the store, in byte order."""

    revision: Annotated[int, Meta(description="The store's, when it answered.")]
    count: Annotated[int, Meta(description="How many keys are in the range, whatever `limit` is.")]
    more: Annotated[bool, Meta(description="The range has keys behind these.")]
    items: Sequence[KvItem]
    at: At


class KvWritten(msgspec.Struct, frozen=True, kw_only=True):
    term: int
    index: int
    revision: Annotated[int, Meta(description="The key's and the store's.")]


class KvDeleted(msgspec.Struct, frozen=True, kw_only=True):
    term: int
    index: int
    revision: Annotated[int, Meta(description="The store's.")]
    deleted: Annotated[int, Meta(description="How many keys.")]
