"""Evidence from a node that nothing is known about yet, and the group key for one that was verified."""

import ssl
from dataclasses import dataclass
from typing import Final

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from node.api import schemas
from node.client.channel import client_tls_context, decode_answer, decode_problem, read_bounded
from node.client.errors import RefusedError, UnreachableError
from node.errors import ConfigError

TIMEOUT_S: Final = 15.0  # a quote takes up to a few seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveEvidence:
    """A node's evidence, and the certificate of the very TLS connection that it came over."""

    document: schemas.OwnEvidence
    certificate_der: bytes


def fetch_evidence_unauthenticated(url: str, nonce: bytes, *, timeout_s: float = TIMEOUT_S) -> LiveEvidence:
    """Ask any server for evidence. Nothing about it is known yet: the caller verifies the tickets against the
    key of ``certificate_der`` and ``binding_of_nonce(nonce)``, and only then trusts the channel.

    Raises:
        ConfigError: not an https URL.
        UnreachableError, RefusedError, AnswerInvalidError.
    """
    _require_https(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    path = f"{url.rstrip('/')}/v1/attestation/evidence?nonce={nonce.hex()}"
    with httpx.Client(verify=context, timeout=timeout_s, trust_env=False) as http:
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

    The certificate is the one whose key verified evidence has named: the connection is new, but only the
    holder of the same key can complete it.

    Raises:
        ConfigError: not an https URL.
        UnreachableError, RefusedError, AnswerInvalidError.
    """
    _require_https(url)
    pem = x509.load_der_x509_certificate(certificate_der).public_bytes(Encoding.PEM)
    context = client_tls_context(pem)
    context.check_hostname = False  # the pinned key, not a name, is what was verified
    body = {"group_key": group_key.hex()}
    with httpx.Client(verify=context, timeout=timeout_s, trust_env=False) as http:
        try:
            with http.stream("PUT", f"{url.rstrip('/')}/v1/provision", json=body) as response:
                status, answer = response.status_code, read_bounded(response)
        except (httpx.TransportError, httpx.InvalidURL) as exc:
            raise UnreachableError(f"{url}: {exc}") from exc
    if status != httpx.codes.OK:
        raise RefusedError(decode_problem(status, answer))
    return bytes.fromhex(decode_answer(answer, schemas.Provisioned).group_id)


def _require_https(url: str) -> None:
    if not url.startswith("https://"):
        raise ConfigError(f"{url} does not begin with https://")
