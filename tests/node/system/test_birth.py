"""The birth certificate, and the part of the system state that keeps it."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from attestation.encoding.canonical import decode_untrusted, encode
from attestation.tickets.protocol import Cluster
from node.authority import AuthorityError, AuthorityKey, authority_of, sign, spki_of
from node.machines.base import ApplyContext, CommandError
from node.system.birth import (
    CERTIFICATE_BYTES_MAX,
    BirthCertificate,
    BirthState,
    birth_certificate_untrusted,
    first_statement,
    next_statement,
    signatures_of,
)

GROUP = b"g" * 32
OURS, THEIRS = Cluster(id=b"1" * 32), Cluster(id=b"2" * 32)
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(b"k" * 32)
OTHER = ed25519.Ed25519PrivateKey.from_private_bytes(b"o" * 32)
AUTHORITY = authority_of(1, [AuthorityKey.of("ops", spki_of(KEY))])
FIRST = first_statement(GROUP, OURS, now_s=1_800_000_000)
CONTEXT = ApplyContext(1, 1, 0, 0, GROUP)


def certificate(statement=FIRST, key=KEY, kid="ops"):
    return BirthCertificate(statement=statement, signatures=((kid, sign(key, statement.digest)),))


def refusal(call):
    with pytest.raises(AuthorityError) as caught:
        call()
    return caught.value.reason


# ---- the certificate ------------------------------------------------------------------
def test_what_was_signed_is_what_is_read_again():
    made = certificate()
    read = birth_certificate_untrusted(made.encode())

    assert read == made
    assert read.verified(AUTHORITY, group_id=GROUP).cluster == OURS


def test_every_member_of_the_statement_is_covered_by_the_signature():
    signatures = certificate().signatures
    changes = {
        "cluster": THEIRS,
        "seq": 2,
        "predecessor": b"p" * 32,
        "signed_at": 1,
    }
    for name, value in changes.items():
        changed = BirthCertificate(statement=replace(FIRST, **{name: value}), signatures=signatures)
        assert (
            refusal(lambda it=changed: it.verified(AUTHORITY, group_id=GROUP))
            == "authority-signature-invalid"
        )
    generation = replace(FIRST, cluster=Cluster(id=OURS.id, generation=1))
    raised = BirthCertificate(statement=generation, signatures=signatures)
    assert refusal(lambda: raised.verified(AUTHORITY, group_id=GROUP)) == "authority-signature-invalid"
    regrouped = BirthCertificate(statement=replace(FIRST, group_id=b"x" * 32), signatures=signatures)
    assert refusal(lambda: regrouped.verified(AUTHORITY, group_id=b"x" * 32)) == "authority-signature-invalid"


def test_another_groups_certificate_is_refused_though_the_same_authority_signed_it():
    foreign = certificate(replace(FIRST, group_id=b"x" * 32))

    assert refusal(lambda: foreign.verified(AUTHORITY, group_id=GROUP)) == "birth-certificate-group"


def test_a_look_alike_cluster_is_refused_by_a_client_that_never_met_the_first_one():
    confirmed = certificate().verified(AUTHORITY, group_id=GROUP)

    confirmed.require_cluster(OURS)
    assert refusal(lambda: confirmed.require_cluster(THEIRS)) == "birth-certificate-cluster"
    recovered = Cluster(id=OURS.id, generation=1)
    assert refusal(lambda: confirmed.require_cluster(recovered)) == "birth-certificate-cluster"


def test_a_client_that_saw_the_successor_refuses_the_cluster_before_it():
    later = certificate(next_statement(FIRST, THEIRS, now_s=1_800_000_100))
    confirmed = later.verified(AUTHORITY, group_id=GROUP)

    assert (confirmed.statement.seq, confirmed.statement.predecessor) == (2, OURS.id)
    confirmed.require_not_before(2)
    earlier = certificate().verified(AUTHORITY, group_id=GROUP)
    assert refusal(lambda: earlier.require_not_before(2)) == "birth-certificate-superseded"


def _edited(**changes):
    value = decode_untrusted(
        certificate().encode(), bytes_max=CERTIFICATE_BYTES_MAX, items_max=CERTIFICATE_BYTES_MAX
    )
    value["statement"] = {**value["statement"], **changes}
    return encode(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xa0",
        encode([]),
        certificate().encode() + b"\0",
        _edited(extra=1),
        _edited(group_id=b"short"),
        _edited(cluster_id="1" * 32),
        _edited(generation=-1),
        _edited(generation=True),
        _edited(seq=0),
        _edited(seq=2**53 + 1),
        _edited(predecessor=b""),
        _edited(signed_at=1.5),
        _edited(signed_at=2**60),
        bytes(CERTIFICATE_BYTES_MAX + 1),
        encode({"statement": FIRST.to_value(), "signatures": [["ops", b"x"]]}),
        encode({"statement": FIRST.to_value(), "signatures": [["", bytes(64)]]}),
        encode({"statement": FIRST.to_value(), "signatures": [["k", bytes(64)]] * 17}),
        encode({"statement": FIRST.to_value(), "signatures": {}}),
    ],
    ids=range(19),
)
def test_malformed_certificates_are_refused(data):
    assert refusal(lambda: birth_certificate_untrusted(data)) == "birth-certificate-malformed"


def test_signatures_that_were_made_apart_are_put_together():
    authority = authority_of(
        2, [AuthorityKey.of("ops", spki_of(KEY)), AuthorityKey.of("sec", spki_of(OTHER))]
    )
    one, two = certificate(), certificate(key=OTHER, kid="sec")
    merged = signatures_of([one, two])

    assert refusal(lambda: one.verified(authority, group_id=GROUP)) == "authority-threshold"
    assert merged.verified(authority, group_id=GROUP).cluster == OURS
    foreign = certificate(replace(FIRST, signed_at=5))
    assert refusal(lambda: signatures_of([one, foreign])) == "birth-certificate-mixed"
    assert refusal(lambda: signatures_of([])) == "birth-certificate-mixed"


# ---- the state ----------------------------------------------------------------------
def state(authority=AUTHORITY):
    return BirthState(authority, GROUP)


def confirm(at, made):
    return at.apply(["cluster-confirm", made.encode()], CONTEXT)


def code_of(call):
    with pytest.raises(CommandError) as caught:
        call()
    return caught.value.code


def test_the_group_keeps_what_its_authority_signed():
    birth = state()
    assert birth.query(["cluster-confirmed"]) is None

    assert confirm(birth, certificate()) == {"seq": 1}
    assert birth.query(["cluster-confirmed"]) == birth.certificate == certificate().encode()


def test_handing_the_same_certificate_in_again_is_no_mistake():
    birth = state()
    confirm(birth, certificate())

    assert confirm(birth, certificate()) == {"seq": 1}


def test_an_earlier_or_rival_certificate_does_not_replace_a_later_one():
    birth = state()
    confirm(birth, certificate(next_statement(FIRST, THEIRS, now_s=1)))
    before = birth.snapshot()

    assert code_of(lambda: confirm(birth, certificate())) == "birth-certificate-superseded"
    rival = certificate(replace(next_statement(FIRST, THEIRS, now_s=1), signed_at=9))
    assert code_of(lambda: confirm(birth, rival)) == "birth-certificate-superseded"
    assert birth.snapshot() == before


def test_what_the_authority_did_not_sign_is_not_kept():
    birth = state()

    assert code_of(lambda: confirm(birth, certificate(key=OTHER))) == "authority-signature-invalid"
    assert code_of(lambda: birth.apply(["cluster-confirm", b"x"], CONTEXT)) == "birth-certificate-malformed"
    assert code_of(lambda: birth.apply(["cluster-confirm"], CONTEXT)) == "system-command-malformed"
    assert code_of(lambda: birth.query(["cluster-confirmed", 1])) == "system-query-malformed"
    assert code_of(lambda: confirm(state(None), certificate())) == "authority-none"
    assert birth.snapshot() is None


def test_a_snapshot_holds_all_of_it_and_is_verified_when_it_is_restored():
    birth = state()
    confirm(birth, certificate())
    other = state()
    other.restore(birth.snapshot())

    assert (other.snapshot(), other.digest()) == (birth.snapshot(), birth.digest())
    assert (
        code_of(lambda: confirm(other, certificate(replace(FIRST, signed_at=9))))
        == "birth-certificate-superseded"
    )
    with pytest.raises(AuthorityError):
        state().restore(certificate(key=OTHER).encode())


def test_a_rollback_forgets_what_came_after_the_savepoint():
    birth = state()
    savepoint = birth.savepoint()
    confirm(birth, certificate())
    birth.rollback(savepoint)

    assert birth.certificate is None
    assert confirm(birth, certificate()) == {"seq": 1}
