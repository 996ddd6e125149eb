"""What a client remembers of the clusters that it verified."""

import pytest

from attestation.tickets.protocol import Cluster
from node.client.pins import PinError, Pins
from node.errors import ConfigError

GROUP, OTHER_GROUP = b"g" * 32, b"h" * 32
FIRST, SECOND = Cluster(id=b"1" * 32), Cluster(id=b"2" * 32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "pins.json"


def verified(path, cluster, seq=None, group=GROUP):
    pins = Pins.load(path).with_verified(group, cluster, seq)
    pins.save()
    return pins


def refusal(path, cluster, seq=None):
    before = path.read_bytes()
    with pytest.raises(PinError) as caught:
        verified(path, cluster, seq)
    assert path.read_bytes() == before
    return caught.value.reason


def test_the_first_cluster_that_was_verified_stays(path):
    verified(path, FIRST)
    verified(path, FIRST)

    assert refusal(path, SECOND) == "cluster-changed"
    assert refusal(path, Cluster(id=FIRST.id, generation=1)) == "cluster-changed"
    verified(path, SECOND, group=OTHER_GROUP)


def test_a_successor_needs_a_newer_certificate(path):
    verified(path, FIRST, 1)

    assert refusal(path, SECOND, 1) == "cluster-changed"
    assert refusal(path, SECOND) == "cluster-changed"
    verified(path, SECOND, 2)
    assert refusal(path, FIRST, 1) == "birth-certificate-superseded"
    assert refusal(path, FIRST) == "cluster-changed"


def test_a_number_that_was_seen_is_not_forgotten_by_looking_without_an_authority(path):
    verified(path, FIRST, 5)
    verified(path, FIRST)

    assert refusal(path, FIRST, 4) == "birth-certificate-superseded"


def test_a_user_may_forget_a_group(path):
    verified(path, FIRST, 5)
    Pins.load(path).without(GROUP).save()

    verified(path, SECOND)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"groups": {"x": {}}}',
        '{"more": 1}',
        '{"groups": {"%s": {"cluster": "x"}}}' % ("0" * 64),
    ],
)
def test_a_damaged_file_is_named_and_not_taken_for_an_empty_one(path, text):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"pins\.json"):
        Pins.load(path)


def test_the_file_is_its_owners(path):
    verified(path, FIRST)

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
