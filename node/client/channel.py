"""HTTPS with bounds: which certificates to trust, how much to read, which form an answer must have."""

import ssl
from pathlib import Path
from typing import Final, TypeVar

import httpx
import msgspec

from attestation import files
from attestation.files import FileError
from node.api import schemas
from node.client.errors import AnswerInvalidError
from node.errors import ConfigError

RESPONSE_BYTES_MAX: Final = 64 * 1024 * 1024
CA_BYTES_MAX: Final = 1024 * 1024
T = TypeVar("T")


def client_tls_context(ca_pem: bytes) -> ssl.SSLContext:
    """Return a TLS 1.3 client context that trusts exactly the certificates in ``ca_pem``.

    They are leaf certificates (``CA:FALSE``), each trusted for itself. Host names are checked.

    Raises:
        ConfigError: ``ca_pem`` has no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError, ValueError) as exc:
        raise ConfigError("the CA file holds no PEM certificate") from exc
    return context


def checked_url(url: str) -> str:
    """Return the base address of a node's API, without a slash at its end.

    Raises:
        ConfigError: ``url`` is not such an address.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as exc:
        raise ConfigError(f"{url} is not the address of a node, https://HOST:PORT: {exc}") from exc
    if parsed.scheme != "https" or not url.startswith("https://") or not parsed.host:
        raise ConfigError(f"{url} is not the address of a node: it must begin with https://")
    if parsed.query or parsed.fragment or parsed.userinfo:
        raise ConfigError(f"{url} is not the address of a node, https://HOST:PORT")
    return url.rstrip("/")


def load_client_certificate(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Authenticate with a certificate and its key, from PEM files.

    Raises:
        ConfigError: a file cannot be read, or the files are not a certificate and its key.
    """
    try:
        for path, secret in ((certificate, False), (key, True)):
            files.read_bytes(path, bytes_max=CA_BYTES_MAX, secret=secret)
        context.load_cert_chain(certificate, key)
    except FileError as exc:
        raise ConfigError(f"the client certificate: {exc}") from exc
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        raise ConfigError(f"{certificate} and {key} are not a PEM certificate and its key") from exc


class Body:
    """The body of an answer, piece by piece, with a limit."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > RESPONSE_BYTES_MAX:
            raise AnswerInvalidError(f"an answer of more than {RESPONSE_BYTES_MAX} bytes")
        self._chunks.append(chunk)

    @property
    def whole(self) -> bytes:
        return b"".join(self._chunks)


def read_bounded(response: httpx.Response) -> bytes:
    body = Body()
    for chunk in response.iter_bytes():
        body.add(chunk)
    return body.whole


def read_ca(path: Path) -> bytes:
    try:
        return files.read_bytes(path, bytes_max=CA_BYTES_MAX)
    except FileError as exc:
        raise ConfigError(f"the CA file: {exc}") from exc


def decode_problem(status: int, answer: bytes) -> schemas.Problem:
    try:
        return msgspec.json.decode(answer, type=schemas.Problem)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise AnswerInvalidError(f"status {status} without a problem document") from exc


def decode_answer(answer: bytes, kind: type[T]) -> T:
    """Return the typed answer. Raises AnswerInvalidError."""
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise AnswerInvalidError(f"the answer has another form than this API's: {exc}") from exc
