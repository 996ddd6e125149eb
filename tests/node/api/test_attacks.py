"""Attacks on the API, each shown to fail, and to work once the check that stops it is gone."""

import contextlib
import json
import ssl
from datetime import UTC, datetime, timedelta

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from attestation.encoding import strict_json
from enclave.identity import Identity
from node import tokens
from node.api import commands
from node.api.access import AccessGate
from node.client import UnreachableError, evidence, provision_group_key
from node.client.channel import client_tls_context
from node.raft.types import Applied, Cursor, Ok
from node.system.access import AccessState
from node.system.access_list import AccessList
from node.system.grants import AccessRole, CredentialKind, Grant
from tests.node.api.fakes import IDENTITY, FakeService, call, served

NOW = datetime.now(UTC)
SECRET = {"op": "cas", "key": "a", "expect": "wrong", "value": "x"}


# ---- reading another caller's answer by guessing its idempotency key ---------------------
def guess_a_key():
    service = FakeService()
    command = {"op": "put", "key": "a", "value": "secret"}
    call(service, "POST", "/v1/commands", role=AccessRole.ADMIN, json_body={"command": command})
    headers = [("Idempotency-Key", "1")]
    call(
        service, "POST", "/v1/commands", role=AccessRole.ADMIN, json_body={"command": SECRET}, headers=headers
    )
    guess = {"command": {"op": "delete", "key": "nothing"}}
    reply = call(service, "POST", "/v1/commands", role=AccessRole.WRITE, json_body=guess, headers=headers)
    return b"secret" in reply.body


def test_another_callers_answer_cannot_be_read_with_its_idempotency_key():
    assert not guess_a_key()


def test_it_could_be_if_the_credential_were_not_part_of_the_key(monkeypatch):
    def callers_own(scope, _principal):
        return dict(scope["headers"]).get(b"idempotency-key")

    monkeypatch.setattr(commands, "idempotency_key", callers_own)

    assert guess_a_key()


# ---- a server in the middle, offered the group key ------------------------------------------
def offer_the_key_to_a_stranger():
    stranger, service = Identity.generate("node-a", NOW, hosts=("localhost",)), FakeService(group_key=None)
    with (
        served(service, identity=stranger) as port,
        contextlib.suppress(UnreachableError),
    ):
        provision_group_key(
            f"https://localhost:{port}",
            certificate_der=IDENTITY.certificate_der,
            group_key=b"k" * 32,
        )
    return service.group_key


def test_the_group_key_does_not_reach_a_server_under_another_key():
    assert offer_the_key_to_a_stranger() is None


def test_it_would_if_the_verified_key_were_not_pinned(monkeypatch):
    def believes_anybody(_pem):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

    monkeypatch.setattr(evidence, "client_tls_context", believes_anybody)

    assert offer_the_key_to_a_stranger() == b"k" * 32


# ---- a pinned client that issues certificates to others -----------------------------------
def certificate(name, key, issuer_name, issuer_key, *, ca):
    def named(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    return (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer_name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def call_with_an_issued_certificate(tmp_path):
    pinned_key, other_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pinned = certificate("ops", pinned_key, "ops", pinned_key, ca=True)
    issued = certificate("friend", other_key, "ops", pinned_key, ca=False)
    grant = Grant(
        name="ops",
        kind=CredentialKind.CERTIFICATE,
        credential=tokens.spki_digest(pinned),
        roles=(AccessRole.READ,),
        certificate=pinned.public_bytes(Encoding.DER),
    )
    file = tmp_path / "issued.pem"
    key_pem = other_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(issued.public_bytes(Encoding.PEM) + key_pem)
    context = client_tls_context(IDENTITY.certificate_pem())
    context.load_cert_chain(file)
    with (
        served(FakeService(state=AccessState([grant]))) as port,
        httpx.Client(verify=context, trust_env=False, timeout=10) as http,
    ):
        return http.get(f"https://localhost:{port}/v1/group").status_code


def test_a_pinned_key_cannot_be_passed_on_by_issuing_certificates(tmp_path):
    assert call_with_an_issued_certificate(tmp_path) == 401


def test_it_could_if_only_the_chain_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(AccessList, "of_key", lambda self, _digest: self.of_name("ops"))

    assert call_with_an_issued_certificate(tmp_path) == 200


# ---- values that replicas could disagree on ------------------------------------------------
def send_a_fraction():
    service = FakeService(end_with=Ok((Applied(None),), Cursor(1, 1)))
    reply = call(service, "POST", "/v1/commands", role=AccessRole.WRITE, json_body={"command": {"n": 0.1}})
    return reply.status


def test_a_fraction_does_not_reach_the_log():
    assert send_a_fraction() == 422


def test_it_would_without_the_walk_over_the_value(monkeypatch):
    monkeypatch.setattr(commands, "require_plain", lambda _value: None)

    assert send_a_fraction() == 200


# ---- a body that a filter in front of the node reads differently -----------------------------
def delete_past_a_filter():
    """A gateway that allows ``put`` only, and takes the first of two members, as some parsers do."""
    service = FakeService()
    body = b'{"command": {"op": "put", "op": "delete", "key": "a"}}'
    first = json.loads(body, object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert first["command"]["op"] == "put"
    reply = call(service, "POST", "/v1/commands", role=AccessRole.WRITE, body=body)
    return reply, [commands[0]["op"] for commands, _, _ in service.executed]


def test_a_repeated_member_does_not_get_past_a_filter():
    reply, executed = delete_past_a_filter()

    assert (reply.status, reply.json["reason"]) == (400, "json-member-repeated")
    assert executed == []


def test_it_would_if_the_last_one_won(monkeypatch):
    monkeypatch.setattr(strict_json, "DECODER", json.JSONDecoder())
    reply, executed = delete_past_a_filter()

    assert reply.status == 200
    assert executed == ["delete"]


# ---- a role that was not given -----------------------------------------------------------------
def write_with_a_readers_token():
    service = FakeService()
    call(
        service,
        "POST",
        "/v1/commands",
        role=AccessRole.READ,
        json_body={"command": {"op": "put", "key": "a", "value": "b"}},
    )
    return service.machine.query({"op": "get", "key": "a"})["item"]


def test_a_reader_cannot_write():
    assert write_with_a_readers_token() is None


def test_past_the_gate_the_log_still_refuses_the_caller(monkeypatch):
    monkeypatch.setattr(AccessGate, "_require", lambda self, grant, _roles: grant)

    assert write_with_a_readers_token() is None


def test_without_both_checks_of_the_role_the_attack_works(monkeypatch):
    monkeypatch.setattr(AccessGate, "_require", lambda self, grant, _roles: grant)
    monkeypatch.setattr(Grant, "permit_command", lambda self, _command, _machine: None)

    assert write_with_a_readers_token() is not None
