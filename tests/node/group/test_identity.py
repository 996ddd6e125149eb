"""The GroupId: any difference that matters is another group."""

import dataclasses

import pytest

from attestation.collateral.freshness import FreshnessState
from node.errors import ConfigError
from node.group import identity
from node.group.identity import GroupKey, GroupKeyDiffersError, group_id, require_key, validators_named_by
from node.raft.types import Settings
from node.trust import tdx_validator_of, validators_of
from tests.support import documents

JWT = """
[jwt]
issuer = "i"
audience = "a"
keys = [{kty = "OKP", crv = "Ed25519", alg = "EdDSA", x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]
"""
KEY = GroupKey(bytes(range(32)))


class Validator:
    ticket_class = "tdx"
    mock = False

    def __init__(self, signature: bytes = b"s" * 32, ticket_class: str = "tdx") -> None:
        self.signature = signature
        self.ticket_class = ticket_class


def make(**changes):
    values = {
        "key": KEY,
        "settings": Settings(),
        "machine_family": "bondstone/kv",
        "sync_signature": "bondstone/log-replay/v1",
        "validators": [Validator()],
    }
    return group_id(**(values | changes))


def test_equal_parts_give_an_equal_id():
    assert make() == make(key=GroupKey(bytes(range(32))), validators=[Validator()])


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Settings)])
def test_every_consensus_setting_is_in_the_id(field):
    value = getattr(Settings(), field)
    other = (not value) if isinstance(value, bool) else value + 1 if isinstance(value, int) else value + "x"

    assert make(settings=dataclasses.replace(Settings(), **{field: other})) != make()


@pytest.mark.parametrize(
    "changes",
    [
        {"key": GroupKey(bytes(32))},
        {"machine_family": "bondstone/counter"},
        {"sync_signature": "other"},
        {"validators": []},
        {"validators": [Validator(b"t" * 32)]},
        {"validators": [Validator(ticket_class="jwt")]},
        {"validators": [Validator(), Validator()]},
    ],
    ids=["key", "machine", "sync", "none", "policy", "class", "twice"],
)
def test_any_other_difference_is_another_group(changes):
    assert make(**changes) != make()


def test_the_order_of_validators_matters():
    first, second = Validator(b"1" * 32), Validator(b"2" * 32)

    assert make(validators=[first, second]) != make(validators=[second, first])


def test_a_key_never_shows_itself():
    assert KEY.secret.hex() not in repr(KEY)
    assert KEY.secret != KEY.public_digest


def test_a_setting_that_a_later_release_adds_changes_no_id(monkeypatch):
    """What a release adds has a default, and what is at its default is not written."""

    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class LaterSettings(Settings):
        brand_new_ms: int = 5

    before = make()
    monkeypatch.setattr(identity, "Settings", LaterSettings)

    assert make(settings=LaterSettings()) == before
    assert make(settings=LaterSettings(brand_new_ms=6)) != before


def test_a_key_derived_from_validators_is_deterministic_and_bound_to_them():
    assert GroupKey.derived([Validator()]) == GroupKey.derived([Validator()])
    assert GroupKey.derived([Validator()]) != GroupKey.derived([Validator(b"t" * 32)])
    with pytest.raises(ConfigError):
        GroupKey.derived([])


def test_a_derived_key_is_deterministic_and_bound_to_the_document():
    derived = GroupKey.of_document(documents.document())
    reordered = documents.MINIMAL.replace("bootstrap", "state_machine = 'kv'\nbootstrap")
    other = documents.MINIMAL.replace('"expect 3"', '"expect 4"')

    assert GroupKey.of_document(documents.document(reordered)) == derived
    assert GroupKey.of_document(documents.document(other)) != derived


def test_only_the_key_whose_digest_the_document_names_is_taken():
    named = documents.document(documents.MINIMAL.replace('"derived"', f'"{KEY.public_digest.hex()}"'))

    assert require_key(named, KEY, source="key file") is KEY
    for other in (GroupKey(bytes(32)), GroupKey(KEY.public_digest)):
        with pytest.raises(GroupKeyDiffersError, match="group-key-differs") as caught:
            require_key(named, other, source="key file")
        assert other.secret.hex() not in str(caught.value)


@pytest.mark.parametrize("jwt", ["", JWT], ids=["tdx", "jwt"])
def test_the_validators_of_a_document_are_those_that_a_daemon_makes_of_it(jwt):
    document = documents.document(documents.MINIMAL + jwt)
    made = validators_of(document, tdx_validator_of(document, None, FreshnessState()))

    assert validators_named_by(document) == [(one.ticket_class, one.signature) for one in made]


def test_of_a_derived_key_too():
    document = documents.document()

    assert require_key(document, GroupKey.of_document(document), source="provisioning")
    with pytest.raises(GroupKeyDiffersError):
        require_key(document, KEY, source="provisioning")


@pytest.mark.parametrize("text", ["", "00", "zz" * 32, "00" * 33])
def test_a_malformed_key_file_is_refused(text):
    with pytest.raises(ConfigError):
        GroupKey.from_hex(text)


def test_a_key_that_the_document_names_is_not_derived():
    with pytest.raises(ConfigError):
        GroupKey.of_document(documents.document(documents.MINIMAL.replace('"derived"', f'"{"11" * 32}"')))
