"""Leases, members, maintenance and users, from message to message; and the rights of every method."""

import asyncio

import pytest

from node.api.turns import Asking
from node.etcd import auth_messages as a
from node.etcd import messages as m
from node.etcd.errors import EtcdError
from node.etcd.services.backend import id_of
from node.raft.types import NotExecuted
from node.system.access import AccessState
from node.system.grants import AccessRole, CredentialKind, Grant
from node.system.passwords import hash_password
from tests.node.api.fakes import ACCESS, ME, OTHER, PEER
from tests.node.etcd.services.served import Etcd

DENIED = (7, "etcdserver: permission denied")


# ---- leases ------------------------------------------------------------------
def test_a_lease_is_granted_shown_and_revoked_with_its_keys():  # LSE-02, LSE-04, LSE-05, LSE-09
    etcd = Etcd()
    granted = etcd.call("lease", "grant", m.LeaseGrantRequest(TTL=1, ID=7))
    assert (granted.ID, granted.TTL, granted.header.revision) == (7, 2, 1)
    etcd.kv("put", m.PutRequest(key=b"a", lease=7))
    shown = etcd.call("lease", "time_to_live", m.LeaseTimeToLiveRequest(ID=7, keys=True))
    assert (shown.ID, shown.grantedTTL, shown.keys) == (7, 2, [b"a"])
    assert etcd.call("lease", "leases", m.LeaseLeasesRequest()).leases == [m.LeaseStatus(ID=7)]
    assert etcd.call("lease", "revoke", m.LeaseRevokeRequest(ID=7)).header.revision == 3
    gone = etcd.call("lease", "time_to_live", m.LeaseTimeToLiveRequest(ID=7))
    assert (gone.TTL, gone.grantedTTL) == (-1, 0)


@pytest.mark.parametrize(
    ("method", "request_", "refusal"),
    [
        ("revoke", m.LeaseRevokeRequest(ID=99), (5, "etcdserver: requested lease not found")),
        ("grant", m.LeaseGrantRequest(ID=7, TTL=5), (9, "etcdserver: lease already exists")),
        ("grant", m.LeaseGrantRequest(TTL=9_000_000_001), (11, "etcdserver: too large lease TTL")),
    ],
)
def test_a_refusal_about_a_lease_has_etcds_words(method, request_, refusal):
    etcd = Etcd()
    etcd.call("lease", "grant", m.LeaseGrantRequest(TTL=5, ID=7))
    assert etcd.refused("lease", method, request_) == refusal


# ---- members -------------------------------------------------------------------
def test_the_members_have_their_ids_and_the_urls_that_clients_reach():  # CLU-01
    etcd = Etcd()
    answer = etcd.call("cluster", "member_list", m.MemberListRequest())
    assert [(one.ID, one.name, one.isLearner) for one in answer.members] == [
        (id_of(ME), "node-a", False),
        (id_of(PEER), "node-b", False),
        (id_of(OTHER), "node-c", True),
    ]
    assert answer.members[0].clientURLs == ["https://127.0.0.1:8443"]
    assert answer.members[1].clientURLs == ["https://127.0.0.1:8444"]
    assert answer.members[2].clientURLs == []
    assert answer.header.member_id == id_of(ME)


@pytest.mark.parametrize("method", ["member_add", "member_update", "member_promote"])
def test_a_member_joins_by_attestation_alone(method):  # CLU-02
    code, text = Etcd().refused("cluster", method, None)
    assert (code, text) == (12, "bondstone: members join by attestation; see docs/access.md")


def test_an_admin_removes_a_member_and_an_unknown_id_is_not_found():  # CLU-02
    etcd = Etcd()
    etcd.call("cluster", "member_remove", m.MemberRemoveRequest(ID=id_of(PEER)))
    assert etcd.service.noted == [("admin", "node-b")]
    unknown = m.MemberRemoveRequest(ID=1)
    assert etcd.refused("cluster", "member_remove", unknown) == (5, "etcdserver: member not found")
    etcd.service.end_with = NotExecuted("would-lose-quorum")
    assert etcd.refused("cluster", "member_remove", m.MemberRemoveRequest(ID=id_of(PEER))) == (
        9,
        "etcdserver: re-configuration failed due to not enough started members",
    )


# ---- maintenance ------------------------------------------------------------------
def test_the_status_names_a_release_that_kubernetes_accepts_and_where_the_log_is():  # MNT-01
    etcd = Etcd()
    etcd.kv("put", m.PutRequest(key=b"a", value=bytes(1000)))
    status = etcd.call("maintenance", "status", m.StatusRequest())
    assert status.version == "3.5.21"
    assert (status.leader, status.raftTerm, status.raftAppliedIndex) == (id_of(ME), 3, 1)
    assert status.dbSize >= status.dbSizeInUse >= 1000
    assert (status.errors, status.isLearner, status.header.revision) == ([], False, 2)


def test_the_digest_of_the_head_is_that_of_its_revision():  # MNT-02
    etcd = Etcd()
    etcd.kv("put", m.PutRequest(key=b"a", value=b"1"))
    head = etcd.call("maintenance", "hash", m.HashRequest())
    at = etcd.call("maintenance", "hash_kv", m.HashKVRequest(revision=2))
    assert head.hash == at.hash
    future = (11, "etcdserver: mvcc: required revision is a future revision")
    assert etcd.refused("maintenance", "hash_kv", m.HashKVRequest(revision=99)) == future


def test_an_alarm_ends_with_its_cause_and_a_request_to_end_it_is_taken():  # MNT-03
    etcd = Etcd()
    assert etcd.call("maintenance", "alarm", m.AlarmRequest()).alarms == []
    off = m.AlarmRequest(action=m.AlarmAction.DEACTIVATE, alarm=m.AlarmType.NOSPACE)
    assert etcd.call("maintenance", "alarm", off).alarms == []
    on = m.AlarmRequest(action=m.AlarmAction.ACTIVATE)
    assert etcd.refused("maintenance", "alarm", on)[0] == 12


def test_a_full_store_is_an_alarm_of_this_member():  # MNT-03
    etcd = Etcd()
    etcd.service.machine.query = lambda query: [1, 0, 5, 300, 200, True]
    assert etcd.call("maintenance", "alarm", m.AlarmRequest()).alarms == [
        m.AlarmMember(memberID=id_of(ME), alarm=m.AlarmType.NOSPACE)
    ]
    status = etcd.call("maintenance", "status", m.StatusRequest())
    assert (status.dbSize, status.dbSizeInUse) == (300, 200)
    assert status.errors == [f"memberID:{id_of(ME)} alarm:NOSPACE "]


def test_the_leadership_moves_to_another_voter_alone():  # MNT-04
    etcd = Etcd()
    etcd.call("maintenance", "move_leader", m.MoveLeaderRequest(targetID=id_of(PEER)))
    assert etcd.service.noted == [("admin", "node-b")]
    bad = (9, "etcdserver: bad leader transferee")
    for target in (1, id_of(ME), id_of(OTHER)):
        assert etcd.refused("maintenance", "move_leader", m.MoveLeaderRequest(targetID=target)) == bad
    etcd.service.leading = None
    anyone = m.MoveLeaderRequest(targetID=id_of(PEER))
    assert etcd.refused("maintenance", "move_leader", anyone) == (9, "etcdserver: not leader")


def test_the_state_leaves_only_encrypted():  # MNT-05
    etcd = Etcd()
    text = "bondstone: the state leaves only encrypted, and not by this method"
    assert etcd.refused("maintenance", "snapshot", m.SnapshotRequest()) == (7, text)


# ---- users ---------------------------------------------------------------------
def authenticate(etcd, name, password):
    request = a.AuthenticateRequest(name=name, password=password)
    return asyncio.run(etcd.services["auth"].authenticate(request, Asking("127.0.0.1", known=False)))


def test_without_users_there_is_no_authentication_by_password():  # AUT-01
    with pytest.raises(EtcdError) as refusal:
        authenticate(Etcd(), "root", "x")
    assert (refusal.value.code, refusal.value.message) == (
        9,
        "etcdserver: authentication is not enabled",
    )


def test_the_token_of_a_user_is_good_for_every_member():  # AUT-01
    etcd = Etcd()
    password = hash_password(b"right", bytes(16))
    user = Grant(
        name="root",
        kind=CredentialKind.USER,
        credential=password.credential_of("root"),
        roles=(AccessRole.ADMIN,),
        password=password,
    )
    etcd.service.state = AccessState((*ACCESS, user))
    assert authenticate(etcd, "root", "right").token == "Basic cm9vdDpyaWdodA=="
    for name, wrong in (("root", "wrong"), ("admin", "right"), ("nobody", "right")):
        with pytest.raises(EtcdError) as refusal:
            authenticate(etcd, name, wrong)
        assert (refusal.value.code, refusal.value.message) == (
            3,
            "etcdserver: authentication failed, invalid user ID or password",
        )


def test_users_are_changed_in_the_access_state():  # AUT-03
    etcd = Etcd()
    assert etcd.call("auth", "auth_status", a.AuthStatusRequest()).enabled
    text = "bondstone: users are configured in the access state"
    assert etcd.refused("auth", "refuse", a.AuthUserAddRequest(name="x")) == (12, text)


# ---- rights ----------------------------------------------------------------------
R, W = AccessRole.READ, AccessRole.WRITE
RIGHTS = [
    ("kv", "range", m.RangeRequest(key=b"a"), {R}),
    ("kv", "range", m.RangeRequest(key=b"a", serializable=True), {R}),
    ("kv", "put", m.PutRequest(key=b"a"), {W}),
    ("kv", "put", m.PutRequest(key=b"a", prev_kv=True), set()),
    ("kv", "delete_range", m.DeleteRangeRequest(key=b"a"), {W}),
    ("kv", "delete_range", m.DeleteRangeRequest(key=b"a", prev_kv=True), set()),
    ("kv", "txn", m.TxnRequest(success=[m.RequestOp(request_put=m.PutRequest(key=b"a"))]), {W}),
    ("kv", "txn", m.TxnRequest(failure=[m.RequestOp(request_range=m.RangeRequest(key=b"a"))]), set()),
    ("kv", "txn", m.TxnRequest(compare=[m.Compare(key=b"a")]), set()),
    ("kv", "compact", m.CompactionRequest(revision=2), {W}),
    ("lease", "grant", m.LeaseGrantRequest(TTL=5), {W}),
    ("lease", "revoke", m.LeaseRevokeRequest(ID=7), {W}),
    ("lease", "time_to_live", m.LeaseTimeToLiveRequest(ID=7), {R}),
    ("lease", "time_to_live", m.LeaseTimeToLiveRequest(ID=7, keys=True), {R}),
    ("lease", "leases", m.LeaseLeasesRequest(), {R}),
    ("cluster", "member_list", m.MemberListRequest(), {R, W}),
    ("cluster", "member_remove", m.MemberRemoveRequest(ID=id_of(PEER)), set()),
    ("maintenance", "status", m.StatusRequest(), {R, AccessRole.METRICS}),
    ("maintenance", "hash", m.HashRequest(), {R}),
    ("maintenance", "hash_kv", m.HashKVRequest(), {R}),
    ("maintenance", "alarm", m.AlarmRequest(), {R}),
    ("maintenance", "alarm", m.AlarmRequest(action=m.AlarmAction.DEACTIVATE), set()),
    ("maintenance", "defragment", m.DefragmentRequest(), set()),
    ("maintenance", "move_leader", m.MoveLeaderRequest(targetID=id_of(PEER)), set()),
]
REFUSED_TO_ALL = [
    ("cluster", "member_add", m.MemberAddRequest(), set()),
    ("cluster", "member_update", m.MemberUpdateRequest(), set()),
    ("cluster", "member_promote", m.MemberPromoteRequest(), set()),
    ("maintenance", "downgrade", m.DowngradeRequest(), set()),
    ("auth", "refuse", a.AuthEnableRequest(), set()),
]


@pytest.mark.parametrize("role", list(AccessRole), ids=lambda role: role.value)
def test_every_method_is_open_to_the_roles_of_this_table_and_to_no_others(role):  # AUT-04, TXN-10
    for name, method, request, roles in RIGHTS:
        etcd = prepared()
        if role in roles or role is AccessRole.ADMIN:
            etcd.call(name, method, request, role=role)
        else:
            before = etcd.service.machine.snapshot()
            assert etcd.refused(name, method, request, role=role) == DENIED, (name, method)
            assert etcd.service.machine.snapshot() == before
            assert etcd.service.noted == []
    for name, method, request, _ in REFUSED_TO_ALL:
        refusal = prepared().refused(name, method, request, role=role)
        assert refusal == DENIED if role is not AccessRole.ADMIN else refusal[0] == 12


@pytest.mark.parametrize(
    ("name", "method", "request_"),
    [
        ("kv", "range", m.RangeRequest(key=b"other")),
        ("kv", "range", m.RangeRequest(key=b"mine/", range_end=b"\0")),
        ("kv", "put", m.PutRequest(key=b"other")),
        ("kv", "delete_range", m.DeleteRangeRequest(key=b"mine/", range_end=b"mine1")),
        ("kv", "compact", m.CompactionRequest(revision=2)),
        ("lease", "revoke", m.LeaseRevokeRequest(ID=7)),
        ("lease", "time_to_live", m.LeaseTimeToLiveRequest(ID=7, keys=True)),
        ("maintenance", "hash", m.HashRequest()),
        ("maintenance", "hash_kv", m.HashKVRequest()),
        (
            "kv",
            "txn",
            m.TxnRequest(
                success=[m.RequestOp(request_put=m.PutRequest(key=b"mine/a"))],
                failure=[
                    m.RequestOp(
                        request_txn=m.TxnRequest(
                            failure=[m.RequestOp(request_range=m.RangeRequest(key=b"other"))]
                        )
                    )
                ],
            ),
        ),
        ("kv", "txn", m.TxnRequest(compare=[m.Compare(key=b"other", target=m.CompareTarget.VERSION)])),
    ],
)
def test_a_caller_of_some_keys_reaches_no_others(name, method, request_):  # TXN-10
    etcd = limited()
    before = etcd.service.machine.snapshot()
    assert etcd.refused(name, method, request_, grant="limited") == DENIED
    assert etcd.service.machine.snapshot() == before


def test_a_caller_of_some_keys_uses_those():
    etcd = limited()
    put = m.RequestOp(request_put=m.PutRequest(key=b"mine/a", value=b"1", prev_kv=True))
    etcd.kv("txn", m.TxnRequest(success=[put]), grant="limited")
    assert etcd.kv("range", m.RangeRequest(key=b"mine/", range_end=b"mine0"), grant="limited").count == 1


def prepared():
    etcd = Etcd()
    etcd.kv("put", m.PutRequest(key=b"b", value=b"1"))
    etcd.call("lease", "grant", m.LeaseGrantRequest(ID=7, TTL=100))
    etcd.service.noted.clear()
    return etcd


def limited():
    etcd = prepared()
    grant = Grant(
        name="limited",
        kind=CredentialKind.TOKEN,
        credential=b"l" * 32,
        roles=(AccessRole.READ, AccessRole.WRITE),
        prefixes=(b"mine/",),
    )
    etcd.service.state = AccessState((*ACCESS, grant))
    etcd.grants["limited"] = grant
    return etcd
