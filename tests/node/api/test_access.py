"""Who may call what: every operation, every role, and nobody."""

from datetime import UTC, datetime

import pytest

from enclave.identity import Identity
from node.api.access import CLIENT_CERTIFICATE
from node.api.operations import ANY_ROLE, OPERATIONS, PUBLIC
from node.errors import ConfigError
from node.tokens import (
    AccessError,
    AccessRole,
    hash_token,
    load_access,
    new_token,
    parse_access,
    render_token_entry,
)
from tests.node.api.fakes import NO_ACCESS, TOKENS, FakeService, call

PATH_OF = {"evidence": "/v1/attestation/evidence?nonce=" + "00" * 16}
NEEDS_A_ROLE = [operation for operation in OPERATIONS if isinstance(operation.access, AccessRole)]


def ask(operation, **more):
    path = PATH_OF.get(operation.name, operation.path)
    return call(
        FakeService(group_key=None if operation.name == "provision" else b"k"), operation.method, path, **more
    )


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_without_credentials_only_health_own_evidence_and_the_awaited_key_are_heard(operation):
    reply = ask(operation)

    public = {"health", "ready", "evidence", "provision", "birth_certificate", "confirm"}
    if operation.name in public:
        assert operation.access == PUBLIC
        assert reply.status == (415 if operation.request is not None else 200)  # a key comes as JSON
    else:
        assert (reply.status, reply.json["code"]) == (401, "credentials-missing")
        assert reply.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("operation", NEEDS_A_ROLE, ids=lambda operation: operation.name)
@pytest.mark.parametrize("role", list(AccessRole), ids=lambda role: role.value)
def test_a_role_opens_its_own_operations_and_admin_all(operation, role):
    reply = ask(operation, role=role)

    if role in {operation.access, AccessRole.ADMIN}:
        assert reply.status not in {401, 403}
    else:
        assert (reply.status, reply.json["code"]) == (403, "role-missing")
        assert operation.access.value in reply.headers["www-authenticate"]


@pytest.mark.parametrize("role", list(AccessRole), ids=lambda role: role.value)
def test_any_known_caller_may_read_the_interface_description(role):
    assert next(o for o in OPERATIONS if o.name == "openapi").access == ANY_ROLE
    assert call(FakeService(), "GET", "/openapi.json", role=role).status == 200


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("Bearer bst_unknown", "credentials-unknown"),
        ("bearer " + TOKENS[AccessRole.READ] + "x", "credentials-unknown"),
        ("Bearer " + hash_token(TOKENS[AccessRole.READ]), "credentials-unknown"),
        ("Bearer", "credentials-missing"),
        ("Bearer ", "credentials-missing"),
        ("Basic dXNlcjpwYXNz", "credentials-missing"),
        (TOKENS[AccessRole.READ], "credentials-missing"),
    ],
)
def test_what_is_no_known_token_opens_nothing(header, code):
    reply = call(FakeService(), "GET", "/v1/group", headers=[("Authorization", header)])

    assert (reply.status, reply.json["code"]) == (401, code)


def test_the_scheme_is_case_insensitive():
    headers = [("Authorization", "bEaReR " + TOKENS[AccessRole.READ])]

    assert call(FakeService(), "GET", "/v1/group", headers=headers).status == 200


def test_a_connection_is_never_logged_in():
    """What was accepted is remembered to be compared; each request shows its own credentials."""
    extensions = {}

    def status(path="/v1/group", **more):
        return call(FakeService(), "GET", path, extensions=extensions, **more).status

    def bearer(token):
        return [("authorization", f"Bearer {token}")]

    assert status(role=AccessRole.READ) == 200
    assert extensions
    assert status(role=AccessRole.READ) == 200
    assert status() == 401
    assert status(headers=bearer("bst_wrong")) == 401
    assert status(headers=bearer(TOKENS[AccessRole.READ] + "x")) == 401
    assert status(role=AccessRole.READ, path="/v1/audit/head") == 403
    assert status(role=AccessRole.AUDIT, path="/v1/audit/head") == 200
    assert status(role=AccessRole.AUDIT) == 403


def test_two_authorization_fields_are_refused():
    headers = [("Authorization", "Bearer " + TOKENS[AccessRole.READ])] * 2

    assert call(FakeService(), "GET", "/v1/group", headers=headers).status == 401


# ---- provisioning: the group document names the key, so whoever knows it may send it -------
def test_a_node_takes_its_key_once_and_no_second():
    service = FakeService(group_key=None)
    body = {"group_key": "ab" * 32}
    first = call(service, "PUT", "/v1/provision", json_body=body)
    second = call(service, "PUT", "/v1/provision", json_body=body)

    assert (first.status, first.json) == (200, {"group_id": "08" * 32})
    assert service.group_key == bytes.fromhex("ab" * 32)
    assert (second.status, second.json["code"]) == (409, "provision-refused")
    assert second.json["reason"] == "not-awaited"


@pytest.mark.parametrize("key", ["", "ab", "zz" * 32, "ab" * 33, 7])
def test_what_is_no_group_key_is_not_taken(key):
    service = FakeService(group_key=None)
    reply = call(service, "PUT", "/v1/provision", json_body={"group_key": key}, access=NO_ACCESS)

    assert (reply.status, reply.json["code"]) == (422, "request-invalid")
    assert service.group_key is None
    assert not isinstance(key, str) or len(key) < 8 or key not in reply.body.decode()


def test_an_open_provisioning_endpoint_takes_no_more_than_a_key_needs():
    service = FakeService(group_key=None)
    reply = call(service, "PUT", "/v1/provision", json_body={"group_key": "ab" * 4096}, access=NO_ACCESS)

    assert (reply.status, reply.json["code"]) == (413, "body-too-large")


# ---- client certificates -----------------------------------------------------------------
CLIENT = Identity.generate("ops-laptop", datetime.now(UTC))
STRANGER = Identity.generate("ops-laptop", datetime.now(UTC))
PINNED = f"""
[[certificate]]
name = "ops-laptop"
roles = ["read"]
pem = '''{CLIENT.certificate_pem().decode()}'''
"""


def with_certificate(identity, path, **more):
    access = parse_access(PINNED.encode(), where="test")
    extensions = {CLIENT_CERTIFICATE: identity.certificate_der}
    return call(FakeService(), "GET", path, access=access, extensions=extensions, **more)


def test_a_pinned_client_certificate_carries_its_roles_and_no_more():
    assert with_certificate(CLIENT, "/v1/group").status == 200
    assert with_certificate(CLIENT, "/v1/audit/head").status == 403


def test_another_key_under_the_same_name_is_a_stranger():
    reply = with_certificate(STRANGER, "/v1/group")

    assert (reply.status, reply.json["reason"]) == (401, "certificate-unknown")


def test_a_wrong_token_is_not_forgiven_for_a_good_certificate():
    reply = with_certificate(CLIENT, "/v1/group", headers=[("Authorization", "Bearer nope")])

    assert (reply.status, reply.json["reason"]) == (401, "token-unknown")


# ---- the access file ----------------------------------------------------------------------
def test_a_new_token_is_random_and_only_its_hash_is_written():
    token = new_token()
    text = render_token_entry("ci", token, [AccessRole.READ, AccessRole.WRITE])
    principal = parse_access(text.encode(), where="test").of_token(token.encode())

    assert token not in text
    assert new_token() != token
    assert len(token) >= 40
    assert (principal.name, principal.roles) == ("ci", {AccessRole.READ, AccessRole.WRITE})


def test_admin_includes_every_role():
    access = parse_access(render_token_entry("a", "t", [AccessRole.ADMIN]).encode(), where="test")

    assert access.of_token(b"t").roles == frozenset(AccessRole)
    assert access.has_admin


def test_an_empty_list_admits_nobody():
    with pytest.raises(AccessError) as caught:
        NO_ACCESS.of_token(b"")

    assert caught.value.reason == "token-unknown"
    assert not NO_ACCESS.has_admin


GOOD = render_token_entry("a", "t", [AccessRole.READ])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[token]", "access.toml"),
        ("[[token]]\nname = 'a'\nroles = ['read']\n", "sha256"),
        (GOOD.replace('"read"', '"root"'), "root"),
        (GOOD.replace('["read"]', "[]"), "length >= 1"),
        (GOOD + "expires = 1\n", "expires"),
        (GOOD + "[[tokens]]\n", "tokens"),
        (GOOD.replace('"a"', '""'), "name"),
        (GOOD.replace("sha256 = ", "sha256 = 'x' #"), "sha256"),
        (GOOD + GOOD.replace('"a"', '"b"'), "a and b are the same credential"),
        (PINNED.replace("BEGIN", "BEGUN"), "ops-laptop"),
        ("#" * (256 * 1024 + 1), "larger"),
        ("".join(render_token_entry(f"n{i}", f"t{i}", [AccessRole.READ]) for i in range(257)), "256"),
    ],
    ids=range(12),
)
def test_a_wrong_access_file_is_a_configuration_error_that_names_it(text, says):
    with pytest.raises(ConfigError) as caught:
        parse_access(text.encode(), where="access.toml")

    assert "access.toml" in str(caught.value)
    assert says in str(caught.value)


def test_a_missing_access_file_names_the_key_and_the_file(tmp_path):
    with pytest.raises(ConfigError, match=r"api\.tokens_file: cannot read .*nowhere"):
        load_access(tmp_path / "nowhere")


def test_an_access_file_is_read(tmp_path):
    (tmp_path / "access.toml").write_text(GOOD)

    assert load_access(tmp_path / "access.toml").of_token(b"t").name == "a"
