"""Who may call what: every operation, every role, and nobody; by a list that is the group's state."""

import asyncio
import base64
import itertools
import threading
from datetime import UTC, datetime

import pytest
from cryptography import x509

from attestation.tickets.protocol import Cluster
from enclave.identity import Identity
from node.api import passwords
from node.api.access import CLIENT_CERTIFICATE, Standing
from node.api.app import create_app
from node.api.currency import PAUSE_S, Currency
from node.api.limits import ApiLimits
from node.api.operations import ANY_ROLE, OPERATIONS, PUBLIC
from node.api.problems import ProblemError
from node.raft.types import Cursor, NotExecuted
from node.system.access import AccessState
from node.system.grants import AccessRole, CredentialKind, Grant
from node.system.passwords import hash_password
from node.tokens import hash_token, new_token, spki_digest
from tests.node.api.calls import CALLS
from tests.node.api.fakes import ACCESS, NOW_MS, TOKENS, FakeService, asgi, call

NEEDS_A_ROLE = [operation for operation in OPERATIONS if operation.roles]
NEEDS_SOMEBODY = [operation for operation in OPERATIONS if operation.access != PUBLIC]
ADMIN = AccessRole.ADMIN


def ask(operation, service=None, **more):
    made = CALLS[operation.name]
    if service is None:
        service = FakeService(group_key=None if operation.name == "provision" else b"k")
    service.hold(made.holds)
    return call(service, operation.method, operation.path + made.query, json_body=made.body, **more)


def bearer(token):
    return [("authorization", f"Bearer {token}")]


def basic(name, password):
    return [("authorization", "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode())]


def token_grant(name, token, *roles, **more):
    return Grant(
        name=name, kind=CredentialKind.TOKEN, credential=bytes.fromhex(hash_token(token)), roles=roles, **more
    )


# ---- operations and roles --------------------------------------------------------------
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_without_credentials_only_what_is_public_answers(operation):
    reply = ask(operation)

    public = {"health", "ready", "evidence", "provision", "birth_certificate", "confirm"}
    if operation.name in public:
        assert operation.access == PUBLIC
        assert reply.json.get("code") != "credentials-missing"
    else:
        assert (reply.status, reply.json["code"]) == (401, "credentials-missing")
        assert reply.headers["www-authenticate"].startswith("Bearer")


OPENS = {
    "metrics": {AccessRole.READ, AccessRole.METRICS},
    "group": {AccessRole.READ},
    "members": {AccessRole.READ},
    "safe_to_stop": {AccessRole.READ},
    "transfer": set(),
    "remove": set(),
    "bonds": {AccessRole.READ},
    "commands": {AccessRole.WRITE},
    "queries": {AccessRole.READ},
    "peers": {AccessRole.AUDIT},
    "audit_events": {AccessRole.AUDIT},
    "audit_head": {AccessRole.AUDIT},
    "access_list": set(),
    "access_new": set(),
    "access_revoke": set(),
}


@pytest.mark.parametrize("operation", NEEDS_A_ROLE, ids=lambda operation: operation.name)
@pytest.mark.parametrize("role", list(AccessRole), ids=lambda role: role.value)
def test_a_role_opens_its_own_operations_and_admin_all(operation, role):
    reply = ask(operation, role=role)

    if role in CALLS[operation.name].opened_by | {ADMIN}:
        assert reply.status == 200
    else:
        assert (reply.status, reply.json["code"]) == (403, "role-missing")
        assert operation.roles[0].value in reply.headers["www-authenticate"]


@pytest.mark.parametrize("role", list(AccessRole), ids=lambda role: role.value)
def test_any_known_caller_may_read_the_interface_description(role):
    assert next(o for o in OPERATIONS if o.name == "openapi").access == ANY_ROLE
    assert call(FakeService(), "GET", "/openapi.json", role=role).status == 200


# ---- what is shown ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("Bearer bst_unknown", "credentials-unknown"),
        ("bearer " + TOKENS[AccessRole.READ] + "x", "credentials-unknown"),
        ("Bearer " + hash_token(TOKENS[AccessRole.READ]), "credentials-unknown"),
        ("Bearer " + "x" * 600, "credentials-unknown"),
        ("Bearer", "credentials-missing"),
        ("Bearer ", "credentials-missing"),
        ("Basic", "credentials-missing"),
        ("Basic ?", "credentials-missing"),
        ("Basic " + base64.b64encode(b"nocolon").decode(), "credentials-missing"),
        ("Basic " + base64.b64encode(b"name:").decode(), "credentials-missing"),
        ("Basic " + base64.b64encode(b"name:" + b"x" * 257).decode(), "credentials-missing"),
        ("Basic " + base64.b64encode(b"\xff:x").decode(), "credentials-missing"),
        ("Digest x", "credentials-missing"),
        (TOKENS[AccessRole.READ], "credentials-missing"),
    ],
)
def test_an_unknown_credential_opens_nothing(header, code):
    reply = call(FakeService(), "GET", "/v1/group", headers=[("Authorization", header)])

    assert (reply.status, reply.json["code"]) == (401, code)


def test_the_scheme_is_case_insensitive():
    headers = [("Authorization", "bEaReR " + TOKENS[AccessRole.READ])]

    assert call(FakeService(), "GET", "/v1/group", headers=headers).status == 200


def test_a_connection_is_never_logged_in():
    """What was accepted is remembered to be compared; each request shows its own credentials."""
    extensions = {}
    app = create_app(FakeService(), ApiLimits())

    def status(path="/v1/group", **more):
        return call(None, "GET", path, app=app, extensions=extensions, **more).status

    assert status(role=AccessRole.READ) == 200
    assert extensions
    assert status(role=AccessRole.READ) == 200
    assert status() == 401
    assert status(headers=bearer("bst_wrong")) == 401
    assert status(headers=bearer(TOKENS[AccessRole.READ] + "x")) == 401
    assert status(role=AccessRole.READ, path="/v1/audit/head") == 403
    assert status(role=AccessRole.AUDIT, path="/v1/audit/head") == 200
    assert status(role=AccessRole.AUDIT) == 403


def test_what_a_connection_has_shown_before_opens_nothing_once_it_is_revoked():
    service, extensions = FakeService(), {}
    app = create_app(service, ApiLimits())

    def status():
        return call(None, "GET", "/v1/group", app=app, extensions=extensions, role=AccessRole.READ).status

    assert status() == 200
    service.state = AccessState([grant for grant in ACCESS if grant.name != "read"])
    assert status() == 401


def test_two_authorization_fields_are_refused():
    headers = [("Authorization", "Bearer " + TOKENS[AccessRole.READ])] * 2

    assert call(FakeService(), "GET", "/v1/group", headers=headers).status == 401


def test_an_empty_list_permits_no_caller():
    reply = call(FakeService(state=AccessState()), "GET", "/v1/group", role=ADMIN)

    assert (reply.status, reply.json["reason"]) == (401, "token-unknown")


@pytest.mark.parametrize("operation", NEEDS_A_ROLE, ids=lambda operation: operation.name)
def test_an_expired_credential_opens_nothing(operation):
    def service(expires_ms):
        return FakeService(state=AccessState([token_grant("a", "t", ADMIN, expires_ms=expires_ms), *ACCESS]))

    reply = ask(operation, service(NOW_MS), headers=bearer("t"))

    assert (reply.status, reply.json["reason"]) == (401, "credential-expired")
    assert ask(operation, service(NOW_MS + 1), headers=bearer("t")).status == 200


# ---- client certificates -----------------------------------------------------------------
CLIENT = Identity.generate("ops-laptop", datetime.now(UTC))
STRANGER = Identity.generate("ops-laptop", datetime.now(UTC))
PINNED = Grant(
    name="ops-laptop",
    kind=CredentialKind.CERTIFICATE,
    credential=spki_digest(x509.load_der_x509_certificate(CLIENT.certificate_der)),
    roles=(AccessRole.READ,),
    certificate=CLIENT.certificate_der,
)


def with_certificate(certificate_der, path, **more):
    extensions = {CLIENT_CERTIFICATE: certificate_der}
    return call(FakeService(state=AccessState([PINNED])), "GET", path, extensions=extensions, **more)


def test_a_pinned_client_certificate_carries_its_roles_and_no_more():
    assert with_certificate(CLIENT.certificate_der, "/v1/group").status == 200
    assert with_certificate(CLIENT.certificate_der, "/v1/audit/head").status == 403


@pytest.mark.parametrize("shown", [STRANGER.certificate_der, b"none"], ids=["stranger", "none"])
def test_another_key_under_the_same_name_is_a_stranger(shown):
    reply = with_certificate(shown, "/v1/group")

    assert (reply.status, reply.json["reason"]) == (401, "certificate-unknown")


def test_a_wrong_token_is_not_forgiven_for_a_good_certificate():
    reply = with_certificate(CLIENT.certificate_der, "/v1/group", headers=bearer("nope"))

    assert (reply.status, reply.json["reason"]) == (401, "token-unknown")


# ---- names with passwords ------------------------------------------------------------------
def user(name, password, *roles):
    kept = hash_password(password.encode(), b"0" * 16)
    return Grant(
        name=name, kind=CredentialKind.USER, credential=kept.credential_of(name), roles=roles, password=kept
    )


ALICE = user("alice", "secret", AccessRole.READ)


def test_a_name_with_its_password_carries_its_roles():
    service = FakeService(state=AccessState([ALICE]))

    assert call(service, "GET", "/v1/group", headers=basic("alice", "secret")).status == 200
    assert call(service, "GET", "/v1/audit/head", headers=basic("alice", "secret")).status == 403


@pytest.mark.parametrize("shown", [("alice", "Secret"), ("bob", "secret"), ("read", "secret")])
def test_a_wrong_password_and_an_unknown_name_are_the_same_answer_at_the_same_cost(shown, monkeypatch):
    judged = []
    monkeypatch.setattr(passwords, "matches", lambda password, kept: judged.append(kept.version) or False)
    service = FakeService(state=AccessState([ALICE, *ACCESS]))

    reply = call(service, "GET", "/v1/group", headers=basic(*shown))

    assert (reply.status, reply.json["reason"]) == (401, "user-unknown")
    assert reply.json["detail"] == "there is no such name with this password"
    assert judged == [1]


def test_a_connection_pays_for_its_password_once_however_often_the_list_changes(monkeypatch):
    judged = []
    real = passwords.matches
    monkeypatch.setattr(passwords, "matches", lambda *given: judged.append(1) or real(*given))
    service, extensions = FakeService(state=AccessState([ALICE])), {}
    app = create_app(service, ApiLimits())

    def status(password="secret"):
        return call(
            None, "GET", "/v1/group", app=app, extensions=extensions, headers=basic("alice", password)
        ).status

    assert status() == 200
    service.state = AccessState([ALICE, *ACCESS])
    assert (status(), len(judged)) == (200, 1)
    service.state = AccessState([user("alice", "other", AccessRole.READ)])
    assert status() == 401
    assert status("other") == 200


def test_passwords_are_judged_off_the_loop_and_the_number_waiting_is_bounded(monkeypatch):
    release, threads = threading.Event(), set()

    def slow(_password, _kept):
        threads.add(threading.current_thread())
        release.wait()
        return True

    monkeypatch.setattr(passwords, "matches", slow)
    most = passwords.THREADS + passwords.WAITING_MAX
    strangers = most - passwords.WAITING_MAX // 8  # an eighth of the waiting room is for the known
    app = create_app(FakeService(state=AccessState([ALICE])), ApiLimits())

    def request(client="192.0.2.1"):
        headers = basic("alice", "secret")
        return asyncio.ensure_future(asgi(app, "GET", "/v1/group", headers=headers, client=client))

    async def flood():
        crowd = [request() for _ in range(strangers)]
        await turn_over()
        other = request("198.51.100.7")  # the newest gets in, and one of the crowd has to go
        await turn_over()
        release.set()
        return await asyncio.gather(*crowd), await other

    async def turn_over():
        for _ in range(20):
            await asyncio.sleep(0)

    crowd, other = asyncio.run(flood())
    (busy,) = [reply for reply in crowd if reply.status != 200]

    assert (busy.status, busy.json["code"]) == (429, "credentials-busy")
    assert busy is crowd[passwords.THREADS]  # who had waited longest
    assert other.status == 200
    assert len(threads) == passwords.THREADS
    assert threading.main_thread() not in threads


# ---- a list that may be behind -------------------------------------------------------------
@pytest.mark.parametrize("operation", NEEDS_SOMEBODY, ids=lambda operation: operation.name)
def test_a_node_that_was_never_current_knows_no_credential(operation):
    for headers in (bearer(TOKENS[ADMIN]), bearer("unknown")):
        reply = ask(operation, FakeService(current=False), headers=headers)

        assert (reply.status, reply.json["code"]) == (503, "access-not-current")
        assert reply.headers["retry-after"] == "1"


def test_a_token_is_known_everywhere_as_soon_as_it_was_granted():
    behind = AccessState()
    service = FakeService(behind=behind)

    assert call(service, "GET", "/v1/group", role=AccessRole.READ).status == 200


def test_no_caller_is_refused_by_a_list_that_may_be_old():
    service = FakeService()
    app = create_app(service, ApiLimits())

    def ask_unknown():
        return call(None, "GET", "/v1/group", app=app, headers=bearer("unknown"))

    assert ask_unknown().status == 401
    service.current = False
    assert ask_unknown().json["code"] == "access-not-current"


class Asked:
    """Who proves that the list is current."""

    cluster = Cluster(id=bytes(32), generation=0)

    def leaderless(self):
        return False


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


AFTER_THE_LAG = {
    Standing.JUDGED: (200, 200),
    Standing.CURRENT: (503, 503),
    Standing.LAST_KNOWN: (503, 200),
}


@pytest.mark.parametrize("operation", NEEDS_SOMEBODY, ids=lambda operation: operation.name)
@pytest.mark.parametrize("leader_known", [True, False], ids=["leader", "no-leader"])
def test_what_the_log_does_not_judge_again_needs_a_list_within_the_lag(operation, leader_known):
    clock, service = Clock(), FakeService()
    service.hold(CALLS[operation.name].holds)
    app = create_app(service, ApiLimits(access_lag_s=10), age_clock=clock)

    def status_after(seconds):
        clock.now = 100 + seconds
        service.state = AccessState(ACCESS)  # whatever was changed before
        return ask(operation, app=app, role=ADMIN, sent_after=clock.now).status

    assert status_after(0) == 200
    service.current, service.leader_known = False, leader_known
    assert status_after(10) == 200
    assert status_after(10.1) == AFTER_THE_LAG[operation.standing][0 if leader_known else 1]


def test_status_and_the_way_out_alone_remain_when_no_leader_is_known():
    remains = {operation.name for operation in OPERATIONS if operation.standing is Standing.LAST_KNOWN}

    status = {"group", "members", "safe_to_stop", "bonds", "metrics", "openapi"}
    assert remains == {*status, "survivor", "recover"}


def test_a_weak_query_needs_a_list_within_the_lag_and_a_strong_one_is_judged_by_its_answer():
    clock, service = Clock(), FakeService()
    app = create_app(service, ApiLimits(access_lag_s=10), age_clock=clock)

    def status(consistency):
        body = {"query": {"op": "get", "key": "a"}, "consistency": consistency}
        return call(None, "POST", "/v1/queries", app=app, json_body=body, role=AccessRole.READ).status

    assert (status("weak"), status("strong")) == (200, 200)
    service.current = False
    clock.now += 10.1
    assert (status("weak"), status("strong")) == (503, 200)


def test_a_weak_query_that_waited_beyond_the_lag_is_not_answered():
    clock, service = Clock(), FakeService()
    app = create_app(service, ApiLimits(access_lag_s=10), age_clock=clock)
    real = service.query

    async def waits(*given, **more):
        clock.now += waited_s
        return await real(*given, **more)

    service.query = waits
    body = {"query": {"op": "get", "key": "a"}, "consistency": "weak", "min_at": {"term": 3, "index": 1}}

    def ask_weakly():
        return call(None, "POST", "/v1/queries", app=app, json_body=body, role=AccessRole.READ)

    waited_s = 10
    assert ask_weakly().status == 200
    waited_s = 10.1
    assert ask_weakly().json["code"] == "access-not-current"


def test_what_was_proven_counts_from_when_the_question_was_asked_not_from_the_answer():
    """Whoever holds the answer back must not make an old list young."""
    clock = Clock()

    class Late(Asked):
        async def prove_access_current(self, *, timeout_s):
            clock.now += 8
            return clock.now < 110

    currency = Currency(Late(), 10.0, clock)

    async def main():
        await currency.within_lag()
        clock.now += 2.5
        with pytest.raises(ProblemError):
            await currency.within_lag()

    asyncio.run(main())


def test_a_node_that_left_its_cluster_knows_none_of_its_credentials():
    service = FakeService()
    app = create_app(service, ApiLimits())

    def ask_weakly():
        body = {"query": {"op": "get", "key": "a"}, "consistency": "weak"}
        return call(None, "POST", "/v1/queries", app=app, json_body=body, role=AccessRole.READ)

    assert ask_weakly().status == 200
    service.cluster, service.current = Cluster(id=bytes(32), generation=0), False
    assert ask_weakly().json["code"] == "access-not-current"


def test_while_no_leader_is_known_no_caller_waits_for_a_proof():
    service = FakeService(leader_known=False)
    reply = call(service, "GET", "/v1/group", headers=bearer("unknown"))

    assert (reply.status, reply.json["code"], service.proofs) == (503, "access-not-current", 0)


def test_concurrent_callers_share_one_proof_and_an_earlier_proof_does_not_count():
    class Counted(Asked):
        proofs = 0
        gate = asyncio.Event()

        async def prove_access_current(self, *, timeout_s):
            self.proofs += 1
            await self.gate.wait()
            return True

    clock, proof = Clock(), Counted()
    currency = Currency(proof, 10.0, clock)

    async def main():
        first = [asyncio.ensure_future(currency.now()) for _ in range(5)]
        await asyncio.sleep(0)
        clock.now += 1  # the proof that is under way began before these ask
        second = [asyncio.ensure_future(currency.now()) for _ in range(5)]
        await asyncio.sleep(0)
        assert proof.proofs == 1
        proof.gate.set()
        await asyncio.gather(*first, *second)
        assert proof.proofs == 2

    asyncio.run(main())


def test_strangers_cannot_have_one_round_to_the_quorum_after_the_other():
    class Counted(Asked):
        began = ()

        async def prove_access_current(self, *, timeout_s):
            self.began += (clock.now,)
            await asyncio.sleep(0)
            return True

    async def sleep(seconds):
        clock.now += seconds

    clock, proof = Clock(), Counted()
    currency = Currency(proof, 10.0, clock, sleep)

    async def main():
        for _ in range(10):
            await asyncio.gather(*(currency.now() for _ in range(10)))

    asyncio.run(main())

    assert 10 <= len(proof.began) <= 20
    gaps = [after - before for before, after in itertools.pairwise(proof.began)]
    assert gaps == pytest.approx([PAUSE_S] * len(gaps))


def test_callers_that_share_a_proof_get_it_even_if_its_first_caller_leaves():
    class Gated(Asked):
        def __init__(self):
            self.gate = asyncio.Event()

        async def prove_access_current(self, *, timeout_s):
            await self.gate.wait()
            return True

    proof = Gated()
    currency = Currency(proof, 10.0, Clock())

    async def main():
        maker = asyncio.ensure_future(currency.now())
        await asyncio.sleep(0)
        other = asyncio.ensure_future(currency.now())
        await asyncio.sleep(0)
        maker.cancel()
        proof.gate.set()
        await other

    asyncio.run(main())


# ---- what the log judges -------------------------------------------------------------------
def test_a_command_is_handed_over_with_its_callers_credential_and_judged_there_again():
    service = FakeService()
    body = {"command": {"op": "put", "key": "a", "value": "1"}}

    def revokes_first(*given, **more):
        service.state = AccessState()
        return real(*given, **more)

    real = service.execute
    service.execute = revokes_first
    reply = call(service, "POST", "/v1/commands", json_body=body, role=AccessRole.WRITE)

    assert (reply.status, reply.json["code"], reply.json["reason"]) == (403, "not-permitted", "not-permitted")
    assert service.machine.query({"op": "get", "key": "a"})["item"] is None


LIMITED = token_grant("app", "t", AccessRole.READ, AccessRole.WRITE, prefixes=(b"app/",))


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/commands", {"command": {"op": "put", "key": "app/a", "value": "1"}}, 200),
        ("/v1/commands", {"command": {"op": "put", "key": "b", "value": "1"}}, 403),
        (
            "/v1/commands",
            {"commands": [{"op": "delete", "key": "app/a"}, {"op": "delete", "key": "b"}]},
            403,
        ),
        ("/v1/commands", {"command": {"op": "put", "value": "1"}}, 422),
        ("/v1/queries", {"query": {"op": "list", "prefix": "app/"}}, 200),
        ("/v1/queries", {"query": {"op": "list"}}, 403),
        ("/v1/queries", {"query": {"op": "list"}, "consistency": "weak"}, 403),
        ("/v1/queries", {"query": {"op": "get", "key": "b"}}, 403),
        ("/v1/queries", {"query": {"op": "frob"}}, 422),
    ],
)
def test_a_caller_limited_to_prefixes_reaches_nothing_outside_them(path, body, status):
    service = FakeService(state=AccessState([LIMITED]))
    before = service.machine.snapshot()
    reply = call(service, "POST", path, json_body=body, headers=bearer("t"))

    assert reply.status == status
    if status == 403:
        assert reply.json["code"] == "not-permitted"
        assert service.machine.snapshot() == before


# ---- /v1/access ------------------------------------------------------------------------------
def access(service, method="GET", query="", **more):
    return call(service, method, "/v1/access" + query, role=ADMIN, **more)


def test_a_token_that_is_granted_opens_what_it_may_until_it_is_revoked():
    service, token = FakeService(), new_token()
    body = {
        "name": "ci",
        "roles": ["write", "read"],
        "token_sha256": hash_token(token),
        "prefixes": ["ci/"],
        "expires_at": "2100-01-01T00:00:00Z",
    }

    assert call(service, "GET", "/v1/group", headers=bearer(token)).status == 401
    assert access(service, "POST", json_body=body).json == {
        "term": 3,
        "index": 1,
        "name": "ci",
        "credential": hash_token(token),
        "admins": 1,
    }
    assert call(service, "GET", "/v1/group", headers=bearer(token)).status == 200
    listed = access(service).json["access"]
    assert listed[-1] == {
        "name": "ci",
        "kind": "token",
        "credential": hash_token(token),
        "roles": ["read", "write"],
        "prefixes": ["ci/"],
        "expires_at": "2100-01-01T00:00:00Z",
        "expired": False,
    }
    assert token not in str(listed)
    assert access(service, "DELETE", "?name=ci").status == 200
    assert call(service, "GET", "/v1/group", headers=bearer(token)).status == 401


def test_a_change_of_the_list_is_in_the_audit_log_with_its_caller_and_a_refused_one_is_not():
    service = FakeService()
    body = {"name": "ci", "roles": ["read"], "token_sha256": "ab" * 32}
    access(service, "POST", json_body=body)
    access(service, "POST", json_body=body)
    access(service, "DELETE", "?name=ci")

    assert service.noted == [
        ("admin", change, "ci", b"\xab" * 32, Cursor(3, index))
        for change, index in [("access-new", 1), ("access-revoke", 3)]
    ]


def test_a_certificate_that_is_granted_opens_what_it_may():
    service = FakeService()
    body = {"name": "ops", "roles": ["read"], "certificate_pem": CLIENT.certificate_pem().decode()}

    assert access(service, "POST", json_body=body).status == 200
    assert service.grants().certificates == (CLIENT.certificate_der,)
    extensions = {CLIENT_CERTIFICATE: CLIENT.certificate_der}
    assert call(service, "GET", "/v1/group", extensions=extensions).status == 200


def test_a_password_reaches_the_log_as_a_salted_hash_alone():
    service = FakeService()
    body = {"name": "alice", "roles": ["read"], "password": "correct horse"}

    assert access(service, "POST", json_body=body).status == 200
    ((command,), _, _) = service.executed[-1]
    assert "correct horse" not in str(command)
    assert command[1]["password"][1] != bytes(16)
    assert call(service, "GET", "/v1/group", headers=basic("alice", "correct horse")).status == 200
    assert "password" not in access(service).body.decode()


def test_a_repeated_grant_of_a_password_is_the_same_command():
    service = FakeService()
    body = {"name": "alice", "roles": ["read"], "password": "correct horse"}
    commands = []
    for key in ("one", "one", "two"):
        service.by_key.clear()
        access(service, "POST", json_body=body, headers=[("Idempotency-Key", key)])
        commands.append(service.executed[-1][0])

    assert commands[0] == commands[1]
    assert commands[0][0][1]["password"][1] != commands[2][0][1]["password"][1]


def test_a_change_with_an_idempotency_key_happens_once_and_no_command_has_the_same_key():
    service = FakeService()
    body = {"name": "ci", "roles": ["read"], "token_sha256": "ab" * 32}
    headers = [("Idempotency-Key", "k")]
    first = access(service, "POST", json_body=body, headers=headers)
    again = access(service, "POST", json_body=body, headers=headers)
    command = {"command": {"op": "put", "key": "a", "value": "1"}}
    call(service, "POST", "/v1/commands", json_body=command, role=ADMIN, headers=headers)

    assert first.json == again.json
    assert len(service.executed) == 2
    assert len({key for _, key, _ in service.executed}) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "-"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"roles": []}, "roles"),
        ({"roles": ["root"]}, "root"),
        ({"roles": ["read", "read"]}, "roles"),
        ({"roles": ["admin"], "prefixes": ["a"]}, "prefixes"),
        ({"roles": ["metrics"], "prefixes": ["a"]}, "prefixes"),
        ({"prefixes": []}, "prefixes"),
        ({"prefixes": [""]}, "prefixes"),
        ({"prefixes": ["a", "a"]}, "prefixes"),
        ({"prefixes": ["a"] * 65}, "prefixes"),
        ({"token_sha256": "ab"}, "token_sha256"),
        ({"password": "p"}, "exactly one"),
        ({"certificate_pem": "x"}, "exactly one"),
        ({"token_sha256": None}, "token_sha256"),
        ({"expires_at": "2100-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": 7}, "expires_at"),
        ({"more": 1}, "more"),
    ],
    ids=range(18),
)
def test_an_invalid_grant_is_refused_and_named(change, says):
    service = FakeService()
    body = {"name": "ci", "roles": ["read"], "token_sha256": "ab" * 32, **change}
    reply = access(service, "POST", json_body=body)

    assert (reply.status, reply.json["code"]) == (422, "request-invalid")
    assert says in reply.json["detail"]
    assert not service.executed


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"certificate_pem": "none"},
        {"password": ""},
        {"password": "x" * 257},
        {"password": "é" * 129},
    ],
    ids=range(5),
)
def test_a_grant_shows_exactly_one_thing(given):
    reply = access(FakeService(), "POST", json_body={"name": "ci", "roles": ["read"], **given})

    assert (reply.status, reply.json["code"]) == (422, "request-invalid")


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?name=a&credential=" + "ab" * 32,
        "?credential=ab",
        "?credential=" + "zz" * 32,
        "?name=read&force=1",
        "?name=read&name=write",
        "?name=read&more=1",
        "?nam=read",
    ],
)
def test_a_revocation_names_one_credential(query):
    service = FakeService()
    reply = access(service, "DELETE", query)

    assert (reply.status, reply.json["code"]) == (422, "request-invalid")
    assert not service.executed


@pytest.mark.parametrize(
    ("query", "reason"), [("?name=nobody", "access-unknown"), ("?name=admin", "access-last-admin")]
)
def test_a_refused_revocation_reports_the_reason(query, reason):
    reply = access(FakeService(), "DELETE", query)

    assert (reply.status, reply.json["code"], reply.json["reason"]) == (422, "access-refused", reason)


def test_the_last_admin_goes_by_force_alone():
    service = FakeService()

    assert access(service, "DELETE", "?name=admin&force=false").status == 422
    assert access(service, "DELETE", "?name=admin&force=true").json["admins"] == 0
    assert access(service).status == 401


def test_a_change_that_did_not_happen_is_reported_as_such():
    service = FakeService(end_with=NotExecuted("no-leader"))

    assert access(service, "DELETE", "?name=read").json["code"] == "not-executed"
    assert access(service).json["code"] == "not-executed"


def test_a_405_names_every_method_that_there_is():
    reply = call(FakeService(), "PUT", "/v1/access", role=ADMIN)

    assert reply.status == 405
    assert set(reply.headers["allow"].split(", ")) - {"HEAD"} == {"DELETE", "GET", "POST"}


# ---- provisioning ------------------------------------------------------------------------
@pytest.mark.parametrize("key", ["", "ab", "zz" * 32, "ab" * 33, 7])
def test_an_invalid_group_key_is_not_taken(key):
    service = FakeService(group_key=None)
    reply = call(service, "PUT", "/v1/provision", json_body={"group_key": key})

    assert (reply.status, reply.json["code"]) == (422, "request-invalid")
    assert service.group_key is None
    assert not isinstance(key, str) or len(key) < 8 or key not in reply.body.decode()


def test_an_open_provisioning_endpoint_takes_no_more_than_a_key_needs():
    service = FakeService(group_key=None)
    reply = call(service, "PUT", "/v1/provision", json_body={"group_key": "ab" * 4096})

    assert (reply.status, reply.json["code"]) == (413, "body-too-large")


# ---- tokens -----------------------------------------------------------------------------
def test_a_new_token_is_random_and_long():
    token = new_token()

    assert new_token() != token
    assert len(token) >= 40
