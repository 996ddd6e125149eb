"""The founding list: the list of the group document, as the state that every member begins with."""

import hashlib

import pytest

from node.errors import ConfigError
from node.group_document import grants_of
from node.system.access import AccessState
from node.system.grants import AccessRole, CredentialKind
from tests.support import documents

DIGEST = hashlib.sha256(b"token").hexdigest()


def founding(text):
    return grants_of(documents.document(documents.MINIMAL + text).access)


def entry(more="", roles='["read"]', name="a", digest=DIGEST):
    return f'[[access.token]]\nname = "{name}"\nsha256 = "{digest}"\nroles = {roles}\n{more}\n'


def test_every_member_begins_with_the_documents_access_list():
    (grant,) = founding(
        entry('prefixes = ["é/", "b/"]\nexpires_at = 2030-01-01T00:00:00+01:00', '["write", "read"]')
    )

    assert (grant.name, grant.kind, grant.credential.hex()) == ("a", CredentialKind.TOKEN, DIGEST)
    assert grant.roles == (AccessRole.READ, AccessRole.WRITE)
    assert grant.prefixes == (b"b/", "é/".encode())
    assert grant.expires_ms == 1_893_452_400_000
    assert list(AccessState([grant]).grants) == [grant]


def test_the_order_in_the_document_does_not_change_the_state():
    other = entry(name="b", digest="ab" * 32)

    assert founding(entry() + other) == founding(other + entry())


@pytest.mark.parametrize(
    ("more", "roles"),
    [
        ('prefixes = ["a"]', '["admin"]'),
        ('prefixes = ["a"]', '["read", "export"]'),
        ('prefixes = ["a"]', '["metrics"]'),
    ],
)
def test_limits_that_would_not_hold_are_refused_with_the_document(more, roles):
    with pytest.raises(ConfigError, match=r"access.*a: .*prefixes"):
        founding(entry(more, roles))
