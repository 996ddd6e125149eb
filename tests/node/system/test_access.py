"""Who may call, as replicated state: pure, bounded, the same everywhere, and refusing by default."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.encoding.canonical import decode_untrusted, encode
from node.machines.base import ApplyContext, CommandError
from node.machines.counter import Counter
from node.machines.kv import KeyValue
from node.machines.system import RequestKind
from node.system import access_list
from node.system.access import AccessState
from node.system.access_list import AccessList
from node.system.forms import decode_grant_untrusted, encode_grant
from node.system.grants import AccessRole, CredentialKind, Grant
from node.system.passwords import hash_password, matches

NOW_MS = 1_000_000


def context(time_ms=NOW_MS):
    return ApplyContext(term=1, index=1, sub=0, time_ms=time_ms, group_id=bytes(32))


def credential(name):
    return name.encode().ljust(32, b".")


def token(name, *roles, **more):
    return Grant(
        name=name,
        kind=CredentialKind.TOKEN,
        credential=credential(name),
        roles=tuple(AccessRole(role) for role in roles),
        **more,
    )


ROOT = token("root", "admin")


def refused(state, command, *, time_ms=NOW_MS):
    before = state.snapshot()
    with pytest.raises(CommandError) as caught:
        state.apply(command, context(time_ms))

    assert state.snapshot() == before
    return caught.value.code


def new(state, grant, *, time_ms=NOW_MS):
    return state.apply(["access-new", encode_grant(grant)], context(time_ms))


def refused_among(state, grants):
    """Return the code of the first refusal when these are granted one after the other."""
    for grant in grants:
        try:
            new(state, grant)
        except CommandError as exc:
            return exc.code
    return None


def revoke(state, time_ms=NOW_MS, **which):
    return state.apply(["access-revoke", which], context(time_ms))


def judged(state, name, request, value, *, now_ms=NOW_MS, machine=None):
    """Return the code of the refusal, or None."""
    given = None if name is None else credential(name)
    try:
        state.judge(given, request, value, now_ms=now_ms, machine=machine or KeyValue())
    except CommandError as exc:
        return exc.code
    return None


# ---- changes ----------------------------------------------------------------------------
def test_the_list_begins_with_the_founding_list():
    state = AccessState([ROOT])

    assert list(state.grants) == [ROOT]
    assert state.grants.of_credential(ROOT.credential) is ROOT
    assert list(AccessState().grants) == []


def test_a_new_credential_is_known_and_a_revoked_one_no_more():
    state = AccessState([ROOT])
    ci = token("ci", "read", "write", prefixes=(b"ci/",), expires_ms=NOW_MS + 1)

    assert new(state, ci) == {"name": "ci", "credential": ci.credential, "admins": 1}
    assert list(state.grants) == [ROOT, ci]
    assert revoke(state, name="ci") == {"name": "ci", "credential": ci.credential, "admins": 1}
    assert list(state.grants) == [ROOT]
    new(state, ci)
    revoke(state, credential=ci.credential)
    assert list(state.grants) == [ROOT]


@pytest.mark.parametrize(
    ("grant", "code"),
    [
        (token("root", "read"), "access-name-taken"),
        (
            Grant(name="x", kind=CredentialKind.TOKEN, credential=ROOT.credential, roles=(AccessRole.READ,)),
            "access-credential-known",
        ),
        (token("x", "read", expires_ms=NOW_MS), "access-expired"),
        (token("", "read"), "access-invalid"),
        (token("-x", "read"), "access-invalid"),
        (token("x\n", "read"), "access-invalid"),
        (token("x" * 65, "read"), "access-invalid"),
        (token("ä", "read"), "access-invalid"),
        (token("x"), "access-invalid"),
        (token("x", "admin", prefixes=(b"a",)), "access-invalid"),
        (token("x", "read", "export", prefixes=(b"a",)), "access-invalid"),
        (token("x", "audit", prefixes=(b"a",)), "access-invalid"),
        (token("x", "read", prefixes=(b"",)), "access-invalid"),
        (token("x", "read", prefixes=(b"a", b"a")), "access-invalid"),
        (token("x", "read", prefixes=tuple(bytes([i]) for i in range(65))), "access-invalid"),
        (token("x", "read", prefixes=(b"a" * 1025,)), "access-invalid"),
        (token("x", "read", expires_ms=2**53 + 1), "access-invalid"),
        (token("x", "read", certificate=b"DER"), "access-invalid"),
        (token("x", "read", password=hash_password(b"p", bytes(16))), "access-invalid"),
        (
            Grant(
                name="x",
                kind=CredentialKind.CERTIFICATE,
                credential=credential("x"),
                roles=(AccessRole.READ,),
            ),
            "access-invalid",
        ),
        (
            Grant(
                name="x",
                kind=CredentialKind.USER,
                credential=credential("x"),
                roles=(AccessRole.READ,),
                password=hash_password(b"p", bytes(16)),
            ),
            "access-invalid",
        ),
    ],
    ids=range(21),
)
def test_an_invalid_or_repeated_grant_is_refused_and_changes_nothing(grant, code):
    assert refused(AccessState([ROOT]), ["access-new", encode_grant(grant)]) == code


FORM = encode_grant(token("ci", "read"))


@pytest.mark.parametrize(
    "command",
    [
        None,
        [],
        ["access-new"],
        ["access-new", None],
        ["access-new", FORM, FORM],
        ["access-new", FORM | {"more": 1}],
        ["access-new", FORM | {"kind": "key"}],
        ["access-new", FORM | {"name": b"ci"}],
        ["access-new", FORM | {"credential": bytes(31)}],
        ["access-new", FORM | {"credential": "c" * 32}],
        ["access-new", FORM | {"roles": []}],
        ["access-new", FORM | {"roles": ["root"]}],
        ["access-new", FORM | {"roles": ["read", "read"]}],
        ["access-new", FORM | {"roles": [["read"]]}],
        ["access-new", FORM | {"roles": "read"}],
        ["access-new", FORM | {"prefixes": []}],
        ["access-new", FORM | {"prefixes": ["text"]}],
        ["access-new", FORM | {"expires_ms": True}],
        ["access-new", FORM | {"expires_ms": 0}],
        ["access-new", FORM | {"password": [2, bytes(16), bytes(32)], "kind": "user"}],
        ["access-new", FORM | {"password": [True, bytes(16), bytes(32)], "kind": "user"}],
        ["access-new", FORM | {"password": [1, bytes(15), bytes(32)], "kind": "user"}],
        ["access-revoke", {}],
        ["access-revoke", {"name": 1}],
        ["access-revoke", {"name": "root", "credential": bytes(32)}],
        ["access-revoke", {"credential": bytes(1)}],
        ["access-revoke", {"name": "root", "force": 1}],
        ["access-revoke", {"name": "root", "more": 1}],
        ["access-list"],
    ],
    ids=range(29),
)
def test_an_invalid_change_is_refused_and_changes_nothing(command):
    assert refused(AccessState([ROOT]), command) == "access-invalid"


def test_an_absent_credential_cannot_be_revoked():
    assert refused(AccessState([ROOT]), ["access-revoke", {"name": "ci"}]) == "access-unknown"
    assert refused(AccessState([ROOT]), ["access-revoke", {"credential": bytes(32)}]) == "access-unknown"


def test_the_last_admin_is_revoked_only_by_force():
    state = AccessState([ROOT, token("ci", "read")])

    assert refused(state, ["access-revoke", {"name": "root"}]) == "access-last-admin"
    assert refused(state, ["access-revoke", {"name": "root", "force": False}]) == "access-last-admin"
    assert revoke(state, name="root", force=True)["admins"] == 0
    assert [grant.name for grant in state.grants] == ["ci"]


def test_an_admin_that_expires_is_no_reason_to_lose_the_one_that_does_not():
    state = AccessState([ROOT, token("guest", "admin", expires_ms=NOW_MS + 1000)])

    assert refused(state, ["access-revoke", {"name": "root"}]) == "access-last-admin"
    assert revoke(state, name="guest")["admins"] == 1

    new(state, token("second", "admin"))
    assert revoke(state, name="root")["admins"] == 1


def test_an_admin_that_has_expired_counts_for_nothing():
    state = AccessState([ROOT, token("guest", "admin", expires_ms=NOW_MS)])

    assert refused(state, ["access-revoke", {"name": "root"}]) == "access-last-admin"
    assert revoke(state, name="guest")["admins"] == 1


def test_the_list_is_bounded_in_items_and_what_has_expired_makes_room(monkeypatch):
    monkeypatch.setattr(access_list, "GRANTS_MAX", 3)
    state = AccessState([ROOT, token("old", "read", expires_ms=NOW_MS + 1), token("ci", "read")])

    assert refused(state, ["access-new", encode_grant(token("more", "read"))]) == "access-list-full"
    new(state, token("more", "read"), time_ms=NOW_MS + 1)
    assert [grant.name for grant in state.grants] == ["root", "ci", "more"]


def test_the_list_is_bounded_in_bytes():
    state = AccessState([ROOT])
    prefixes = tuple(bytes([i]) * 1024 for i in range(16))
    large = (token(f"n{number}", "read", prefixes=prefixes) for number in range(access_list.GRANTS_MAX))

    assert refused_among(state, large) == "access-list-full"
    assert 1 < len(state.grants) < access_list.GRANTS_MAX // 10
    assert state.grants.size_bytes <= access_list.LIST_BYTES_MAX


def test_the_list_is_bounded_in_certificates(monkeypatch):
    monkeypatch.setattr(access_list, "CERTIFICATES_MAX", 2)
    pinned = [
        Grant(
            name=f"c{number}",
            kind=CredentialKind.CERTIFICATE,
            credential=credential(f"c{number}"),
            roles=(AccessRole.READ,),
            certificate=b"DER",
        )
        for number in range(3)
    ]
    state = AccessState([ROOT])

    assert refused_among(state, pinned) == "access-list-full"
    assert len(state.grants) == 3


# ---- who may do what -----------------------------------------------------------------------
PUT = {"op": "put", "key": "app/a", "value": "1"}
GET = {"op": "get", "key": "app/a"}


@pytest.mark.parametrize("role", list(AccessRole), ids=lambda role: role.value)
def test_each_role_opens_its_own_requests_and_admin_all(role):
    state = AccessState([token("caller", role.value)])
    opens = {
        request
        for request, value in [
            (RequestKind.COMMAND, PUT),
            (RequestKind.QUERY, GET),
            (RequestKind.SYSTEM_COMMAND, ["access-new", FORM]),
            (RequestKind.SYSTEM_QUERY, ["access-list"]),
        ]
        if judged(state, "caller", request, value) is None
    }

    assert opens == {
        AccessRole.READ: {RequestKind.QUERY},
        AccessRole.WRITE: {RequestKind.COMMAND},
        AccessRole.ADMIN: set(RequestKind),
    }.get(role, set())


@pytest.mark.parametrize("request_", list(RequestKind), ids=lambda request: request.value)
def test_a_caller_outside_the_list_may_do_nothing(request_):
    value = {RequestKind.COMMAND: PUT, RequestKind.QUERY: GET}.get(request_, ["access-list"])

    assert judged(AccessState([ROOT]), "stranger", request_, value) == "not-permitted"
    assert judged(AccessState(), "root", request_, value) == "not-permitted"


def test_a_member_without_a_caller_may_do_everything_but_change_the_access_list():
    state = AccessState([ROOT])

    assert judged(state, None, RequestKind.COMMAND, PUT) is None
    assert judged(state, None, RequestKind.QUERY, GET) is None
    assert judged(state, None, RequestKind.SYSTEM_COMMAND, ["tcb-seen", b"", 1]) is None
    for name in ("access-new", "access-revoke", "access-list"):
        assert judged(state, None, RequestKind.SYSTEM_COMMAND, [name, {}]) == "not-permitted"
    assert judged(state, None, RequestKind.SYSTEM_QUERY, ["access-list"]) == "not-permitted"
    assert judged(state, None, RequestKind.SYSTEM_QUERY, ["access-current"]) is None


def test_a_credential_expires_at_its_time_by_the_log():
    state = AccessState([token("caller", "admin", expires_ms=NOW_MS)])

    assert judged(state, "caller", RequestKind.COMMAND, PUT, now_ms=NOW_MS - 1) is None
    assert judged(state, "caller", RequestKind.COMMAND, PUT, now_ms=NOW_MS) == "not-permitted"


CAS = {"op": "cas", "key": "app/a", "expect": None, "value": "1"}
OUTSIDE = [
    (RequestKind.COMMAND, PUT | {"key": "ap"}),
    (RequestKind.COMMAND, PUT | {"key": "b"}),
    (RequestKind.COMMAND, CAS | {"key": "b"}),
    (RequestKind.COMMAND, {"op": "delete", "key": "b"}),
    (RequestKind.COMMAND, {"op": "delete", "key_b64": "Yg=="}),
    (RequestKind.QUERY, GET | {"key": "b"}),
    (RequestKind.QUERY, GET | {"key": "b", "revision": 1}),
    (RequestKind.QUERY, {"op": "list"}),
    (RequestKind.QUERY, {"op": "list", "prefix": "ap"}),
    (RequestKind.QUERY, {"op": "list", "prefix": "b", "after": "app/"}),
]
INSIDE = [
    (RequestKind.COMMAND, PUT),
    (RequestKind.COMMAND, PUT | {"prev": True}),
    (RequestKind.COMMAND, CAS),
    (RequestKind.COMMAND, PUT | {"key": "tmp/"}),
    (RequestKind.QUERY, GET),
    (RequestKind.QUERY, {"op": "list", "prefix": "app/"}),
    (RequestKind.QUERY, {"op": "list", "prefix": "app/x", "after": "zzz"}),
]


@pytest.mark.parametrize(("request_", "value"), OUTSIDE)
def test_a_caller_limited_to_prefixes_reaches_nothing_outside_them(request_, value):
    limited = token("caller", "read", "write", prefixes=(b"app/", b"tmp/"))

    assert judged(AccessState([limited]), "caller", request_, value) == "not-permitted"
    assert judged(AccessState([token("caller", "read", "write")]), "caller", request_, value) is None


@pytest.mark.parametrize(("request_", "value"), INSIDE)
def test_a_caller_limited_to_prefixes_reaches_all_within_them(request_, value):
    limited = token("caller", "read", "write", "audit", prefixes=(b"app/", b"tmp/"))

    assert judged(AccessState([limited]), "caller", request_, value) is None


@pytest.mark.parametrize("prefixes", [(), (b"app/",)], ids=["everywhere", "limited"])
def test_a_caller_that_may_only_write_sees_nothing_of_the_previous_value(prefixes):
    state = AccessState([token("caller", "write", prefixes=prefixes)])

    assert judged(state, "caller", RequestKind.COMMAND, PUT) is None
    assert judged(state, "caller", RequestKind.COMMAND, {"op": "delete", "key": "app/a"}) is None
    assert judged(state, "caller", RequestKind.COMMAND, PUT | {"prev": True}) == "not-permitted"
    assert (
        judged(state, "caller", RequestKind.COMMAND, {"op": "delete", "key": "app/a", "prev": True})
        == "not-permitted"
    )
    assert judged(state, "caller", RequestKind.COMMAND, CAS) == "not-permitted"


def test_a_machine_without_keys_refuses_a_caller_limited_to_prefixes():
    limited = AccessState([token("caller", "read", "write", prefixes=(b"a",))])
    writer = AccessState([token("caller", "write")])

    for request, value in [(RequestKind.COMMAND, {"op": "add"}), (RequestKind.QUERY, {"op": "get"})]:
        assert judged(limited, "caller", request, value, machine=Counter()) == "not-permitted"
    assert judged(writer, "caller", RequestKind.COMMAND, {"op": "add"}, machine=Counter()) is None


def test_an_invalid_command_is_refused_with_the_machines_own_code():
    limited = AccessState([token("caller", "read", "write", prefixes=(b"a",))])

    assert judged(limited, "caller", RequestKind.COMMAND, {"op": "put", "value": "1"}) == "member-missing"
    assert judged(limited, "caller", RequestKind.QUERY, 7) == "not-an-object"


# ---- state ------------------------------------------------------------------------------
def test_a_list_shows_no_password():
    password = hash_password(b"secret", bytes(16))
    user = Grant(
        name="u",
        kind=CredentialKind.USER,
        credential=password.credential_of("u"),
        roles=(AccessRole.READ,),
        password=password,
    )
    state = AccessState([user])

    assert state.query(["access-list"]) == {
        "grants": [{"name": "u", "kind": "user", "credential": user.credential, "roles": ["read"]}]
    }
    assert AccessState([user]).grants.of_name("u") == user
    assert state.query(["access-current"]) is None
    with pytest.raises(CommandError):
        state.query(["access-list", 1])


NAMES = st.sampled_from(["a", "b", "c", "d"])
GRANTS = st.builds(
    lambda name, roles, expires_ms: token(name, *roles, expires_ms=expires_ms),
    NAMES,
    st.lists(st.sampled_from([role.value for role in AccessRole]), min_size=1, max_size=6, unique=True),
    st.none() | st.integers(1, 20),
)
CHANGES = st.one_of(
    GRANTS.map(lambda grant: ["access-new", encode_grant(grant)]),
    st.builds(lambda name, force: ["access-revoke", {"name": name, "force": force}], NAMES, st.booleans()),
)


@settings(max_examples=60)
@given(changes=st.lists(CHANGES, max_size=15))
def test_states_that_saw_the_same_are_equal_and_a_rollback_forgets(changes):
    one, other = AccessState([ROOT]), AccessState([ROOT])
    for time_ms, change in enumerate(changes):
        wire = decode_untrusted(encode(change), bytes_max=65536, items_max=65536)
        outcomes = []
        for state, command in ((one, change), (other, wire)):
            before, savepoint = state.digest(), state.savepoint()
            try:
                outcomes.append(state.apply(command, context(time_ms)))
                after = state.grants
                state.rollback(savepoint)
                assert state.digest() == before
                state.rollback(after)
            except CommandError as exc:
                outcomes.append((exc.code, exc.message))
                assert state.digest() == before
        assert outcomes[0] == outcomes[1]
        assert one.digest() == other.digest()
    restored = AccessState()
    restored.restore(decode_untrusted(encode(one.snapshot()), bytes_max=65536, items_max=65536))

    assert restored.digest() == one.digest()


@pytest.mark.parametrize("snapshot", [None, {}, [1], [FORM, FORM], [FORM | {"x": 1}]])
def test_an_invalid_snapshot_leaves_the_list_as_it_was(snapshot):
    state = AccessState([ROOT])
    with pytest.raises(ValueError, match="not a snapshot"):
        state.restore(snapshot)

    assert list(state.grants) == [ROOT]


def test_a_grant_keeps_everything_in_its_plain_form():
    grant = Grant(
        name="c",
        kind=CredentialKind.CERTIFICATE,
        credential=credential("c"),
        roles=(AccessRole.READ, AccessRole.WRITE),
        prefixes=(b"\xff",),
        expires_ms=5,
        certificate=b"DER",
    )

    assert decode_grant_untrusted(encode_grant(grant)) == grant


# ---- passwords ----------------------------------------------------------------------------
def test_a_password_is_kept_as_a_salted_hash_and_matches_only_itself():
    kept = hash_password(b"secret", bytes(16))

    assert b"secret" not in kept.salt + kept.hash
    assert matches(b"secret", kept)
    assert not matches(b"Secret", kept)
    assert hash_password(b"secret", b"1" * 16).hash != kept.hash
    assert kept.credential_of("a") != kept.credential_of("b")


def test_a_token_does_not_pass_for_a_certificate_or_a_user():
    shown = b"text"
    grant = token("t", "read")
    grants = AccessList([grant])

    assert grants.of_token(shown) is None
    assert grants.of_key(grant.credential) is None
