"""Fetches evidence from a node that is not verified yet, and sends the group key to a verified one."""

import base64
import ssl
import time
from dataclasses import dataclass
from typing import Final

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from node.api import schemas
from node.client.channel import checked_url, client_tls_context, decode_answer, decode_problem, read_bounded
from node.client.deadline import Deadline, bounded_client
from node.client.errors import AnswerInvalidError, RefusedError, UnreachableError

TIMEOUT_S: Final = 15.0  # a quote takes up to a few seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveEvidence:
    """A node's evidence, and the certificate of the TLS connection that carried it."""

    document: schemas.OwnEvidence
    certificate_der: bytes


def fetch_evidence_unauthenticated(url: str, nonce: bytes, *, timeout_s: float = TIMEOUT_S) -> LiveEvidence:
    """Fetch evidence from any server.

    The server is not verified yet: the caller verifies the tickets against the key of ``certificate_der`` and
    ``binding_of_nonce(nonce)``, and only then trusts the channel.

    Raises:
        ConfigError: not an https URL.
        UnreachableError, RefusedError, AnswerInvalidError.
    """
    base, deadline = checked_url(url), _deadline_in(timeout_s)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    path = f"{base}/v1/attestation/evidence?nonce={nonce.hex()}"
    with bounded_client(context, deadline, httpx.Timeout(timeout_s)) as http:
        try:
            with http.stream("GET", path) as response:
                tls = response.extensions["network_stream"].get_extra_info("ssl_object")
                certificate = tls.getpeercert(True)
                status, answer = response.status_code, read_bounded(response)
        except (httpx.TransportError, httpx.InvalidURL) as exc:
            raise UnreachableError(f"{url}: {exc}") from exc
    if status != httpx.codes.OK:
        raise RefusedError(decode_problem(status, answer))
    document = decode_answer(answer, schemas.OwnEvidence)
    return LiveEvidence(document=document, certificate_der=certificate)


def provision_group_key(
    url: str,
    *,
    certificate_der: bytes,
    group_key: bytes,
    timeout_s: float = TIMEOUT_S,
) -> bytes:
    """Send the 32-byte group key over a channel with the key of ``certificate_der``; return the group id.

    Verified evidence has named the key of this certificate. The connection is new, but only the holder of the
    same key can complete it.

    Raises:
        ConfigError: not an https URL.
        UnreachableError, RefusedError, AnswerInvalidError.
    """
    answer = _put_pinned(
        url,
        "/v1/provision",
        {"group_key": group_key.hex()},
        certificate_der=certificate_der,
        timeout_s=timeout_s,
    )
    return bytes.fromhex(decode_answer(answer, schemas.Provisioned).group_id)


def submit_birth_certificate(
    url: str, *, certificate_der: bytes, certificate: bytes, timeout_s: float = TIMEOUT_S
) -> None:
    """Send a birth certificate to a node, over a channel with the key of ``certificate_der``.

    Raises:
        ConfigError: not an https URL.
        UnreachableError, RefusedError, AnswerInvalidError.
    """
    text = base64.b64encode(certificate).decode("ascii")
    answer = _put_pinned(
        url,
        "/v1/birth-certificate",
        {"birth_certificate": text},
        certificate_der=certificate_der,
        timeout_s=timeout_s,
    )
    if decode_answer(answer, schemas.BirthCertificate).birth_certificate != text:
        raise AnswerInvalidError(f"{url} answers with another birth certificate than it was sent")


def _put_pinned(
    url: str,
    path: str,
    body: dict[str, str],
    *,
    certificate_der: bytes,
    timeout_s: float,
) -> bytes:
    """Return the body of a success."""
    base, deadline = checked_url(url), _deadline_in(timeout_s)
    pem = x509.load_der_x509_certificate(certificate_der).public_bytes(Encoding.PEM)
    context = client_tls_context(pem)
    context.check_hostname = False  # the pinned key was verified, not a name
    with bounded_client(context, deadline, httpx.Timeout(timeout_s)) as http:
        try:
            with http.stream("PUT", base + path, json=body) as response:
                status, answer = response.status_code, read_bounded(response)
        except (httpx.TransportError, httpx.InvalidURL) as exc:
            raise UnreachableError(f"{url}: {exc}") from exc
    if status != httpx.codes.OK:
        raise RefusedError(decode_problem(status, answer))
    return answer


def _deadline_in(seconds: float) -> Deadline:
    deadline = Deadline(time.monotonic)
    deadline.set(time.monotonic() + seconds)
    return deadline
