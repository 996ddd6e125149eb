"""The messages of etcd's API, compared with what its .proto files say."""

from typing import get_type_hints

import msgspec
import pytest

from node.etcd import auth_messages, messages

MESSAGES = [
    each
    for each in {**vars(messages), **vars(auth_messages)}.values()
    if isinstance(each, type) and issubclass(each, messages.Message) and each is not messages.Message
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda each: each.__name__)
def test_every_field_of_a_message_has_a_number_of_its_own_and_a_default_that_is_not_sent(message):
    hints = get_type_hints(message, include_extras=True)
    numbers = [
        hint.__metadata__[0 if isinstance(hint.__metadata__[0], int) else 1] for hint in hints.values()
    ]

    assert len(set(numbers)) == len(numbers)
    assert all(number > 0 for number in numbers)
    assert all(not getattr(message(), field.name) for field in msgspec.structs.fields(message))


@pytest.mark.parametrize(
    ("message", "field", "number"),
    [("Compare", "range_end", 64), ("WatchResponse", "events", 11), ("StatusResponse", "dbSizeInUse", 9)],
)
def test_a_number_that_is_out_of_order_is_the_one_of_the_proto_file(message, field, number):
    hint = get_type_hints(getattr(messages, message), include_extras=True)[field]
    assert number in hint.__metadata__
