"""Handing the authority's statement about the cluster in and out over HTTP."""

import base64
import json

import pytest

from node.api.service import ConfirmationRefusedError
from node.client import AnswerInvalidError, RefusedError, submit_birth_certificate
from node.raft.types import Cursor, Failed, NotExecuted, Ok, Unknown
from tests.node.api.fakes import IDENTITY, FakeService, call, served

CERTIFICATE = b"\xa2signed\xff"
TEXT = base64.b64encode(CERTIFICATE).decode()


def put(service, body):
    chunk = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = [("content-type", "application/json")]
    return call(service, "PUT", "/v1/birth-certificate", chunks=(chunk,), headers=headers)


def test_a_certificate_is_handed_in_and_out_without_credentials():
    service = FakeService()
    assert call(service, "GET", "/v1/birth-certificate").json == {"birth_certificate": None}

    assert put(service, {"birth_certificate": TEXT}).json == {"birth_certificate": TEXT}
    assert service.certificate == CERTIFICATE
    assert call(service, "GET", "/v1/birth-certificate").json == {"birth_certificate": TEXT}
    assert put(service, {"birth_certificate": TEXT}).status == 200  # again
    evidence = call(service, "GET", f"/v1/attestation/evidence?nonce={'ab' * 32}").json
    assert evidence["birth_certificate"] == TEXT


@pytest.mark.parametrize(
    ("ending", "status", "code", "reason"),
    [
        (ConfirmationRefusedError("birth-certificate-cluster", "x"), 409, "birth-certificate-refused", "birth-certificate-cluster"),
        (Ok((Failed("birth-certificate-superseded", "x"),), Cursor(1, 1)), 409, "birth-certificate-refused", "birth-certificate-superseded"),
        (NotExecuted("no-leader"), 503, "not-executed", "no-leader"),
        (Unknown("deadline"), 504, "outcome-unknown", "deadline"),
    ],
)  # fmt: skip
def test_what_does_not_confirm_this_cluster_is_refused(ending, status, code, reason):
    service = FakeService(end_with=ending)
    reply = put(service, {"birth_certificate": TEXT})

    assert (reply.status, reply.json["code"], reply.json["reason"]) == (status, code, reason)
    assert service.certificate is None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"birth_certificate": "*"}, "request-invalid"),
        ({"birth_certificate": ""}, "request-invalid"),
        ({"birth_certificate": "A" * 8196}, "request-invalid"),
        ({}, "request-invalid"),
        ({"birth_certificate": TEXT, "more": 1}, "request-invalid"),
        (b"[" * 20_000, "body-too-large"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_verified(body, code):
    service = FakeService(end_with=AssertionError("must not be asked"))

    assert put(service, body).json["code"] == code


def test_the_client_hands_it_to_the_key_that_it_verified(ca):
    service = FakeService()
    with served(service) as port:
        url = f"https://localhost:{port}"
        submit_birth_certificate(url, certificate_der=IDENTITY.certificate_der, certificate=CERTIFICATE)
        assert service.certificate == CERTIFICATE
        service.end_with = ConfirmationRefusedError("authority-none", "no authority")
        with pytest.raises(RefusedError, match="no authority"):
            submit_birth_certificate(url, certificate_der=IDENTITY.certificate_der, certificate=CERTIFICATE)


def test_an_answer_with_another_certificate_is_no_confirmation(ca, monkeypatch):
    from node.client import evidence

    monkeypatch.setattr(evidence, "_put_pinned", lambda *_, **__: b'{"birth_certificate": null}')
    with pytest.raises(AnswerInvalidError, match="another birth certificate"):
        submit_birth_certificate("https://a", certificate_der=b"", certificate=CERTIFICATE)
