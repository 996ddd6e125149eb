"""TLS 1.3 over memory BIOs: bytes in, bytes out, no socket.

pyOpenSSL and not ``ssl``, because a bond's proofs and tickets are bound to exported keying material (RFC
5705, RFC 8446 7.5). Certificates are self-signed, so OpenSSL's path check decides nothing. OpenSSL does check
that the peer holds the key (CertificateVerify). ``peer_key_untrusted`` judges the rest. No authority
stands behind a certificate: all else follows from evidence about its key. Names, dates and extensions are not
judged: the peer writes them itself, and the host's clock must not decide here.

Any client that can connect can send a chain, in either direction. OpenSSL would verify each signature in it
before this module's callback overrules the result: sixty RSA keys with huge exponents cost half a second. So
the path ends at the leaf, and only keys and signatures of P-256 are accepted.

No resumption: a resumed session would carry no certificate and no fresh evidence. No early data either.
"""

from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL, crypto

from attestation.tickets.ids import peer_id_of_spki
from node.errors import LocalProtocolError, RemoteProtocolError

ALPN: Final = b"bondstone/bond/1"
EXPORTER_LABEL: Final = b"EXPORTER-bondstone-bond-v1"
EXPORTER_BYTES: Final = 32
# One suite, because both ends run this software. A bond lives for months, and AES-GCM needs new keys after
# 2^24.5 records (RFC 8446 5.5), which pyOpenSSL cannot ask for; ChaCha20-Poly1305 has no such limit.
CIPHERSUITES: Final = b"TLS_CHACHA20_POLY1305_SHA256"
# For CertificateVerify and for certificates: identities are P-256 keys (``enclave.identity``).
SIGNATURE_ALGORITHMS: Final = b"ecdsa_secp256r1_sha256"
PATH_DEPTH: Final = 0  # only the leaf
_READ_BYTES: Final = 256 * 1024
_RECORD_BYTES: Final = 16 * 1024  # SSL_read returns at most one record


def bond_context(private_key: ec.EllipticCurvePrivateKey, certificate_der: bytes) -> SSL.Context:
    """Return the only TLS context of a process, for both directions."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(CIPHERSUITES)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.use_certificate(x509.load_der_x509_certificate(certificate_der))
    context.use_privatekey(private_key)
    context.set_alpn_protos([ALPN])
    context.set_alpn_select_callback(_select_alpn)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _accept_any_path)
    context.set_verify_depth(PATH_DEPTH)
    _restrict_signatures(context)
    return context


def _restrict_signatures(context: SSL.Context) -> None:
    """Accept ``SIGNATURE_ALGORITHMS`` only. pyOpenSSL has the function, but no name for it."""
    library: Any = SSL._lib  # type: ignore[attr-defined]
    done = library.SSL_CTX_set1_sigalgs_list(context._context, SIGNATURE_ALGORITHMS)
    if done != 1:
        raise LocalProtocolError("this OpenSSL does not know ecdsa_secp256r1_sha256")


def _select_alpn(_connection: SSL.Connection, offered: list[bytes]) -> Any:
    return ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def _accept_any_path(
    _connection: SSL.Connection,
    _certificate: crypto.X509,
    _error: int,
    _depth: int,
    _ok: int,
) -> bool:
    return True


class TLSSession:
    """One TLS connection.

    Attributes:
        established: the handshake is over and the connection meets what a bond requires.
        closed: the peer sent close_notify; nothing more will come.
    """

    def __init__(self, context: SSL.Context, *, server: bool) -> None:
        self._connection = SSL.Connection(context, None)
        self.established = False
        self.closed = False
        self._failed = False
        if server:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()

    def start(self) -> None:
        """Make the first flight (client); harmless for a server.

        Raises:
            RemoteProtocolError: see ``receive_data_untrusted``.
        """
        self._handshake()

    def receive_data_untrusted(self, data: bytes) -> bytes:
        """Decrypt bytes from the socket and return the plaintext in them.

        Raises:
            RemoteProtocolError: ``tls-failed``, ``tls-alpn``. ``data_to_send`` then returns the alert.
        """
        if data:  # an empty write to a memory BIO is an error
            self._connection.bio_write(data)
        if not self.established:
            self._handshake()
            if not self.established:
                return b""
        parts = []
        while True:
            try:
                parts.append(self._connection.recv(_RECORD_BYTES))
            except SSL.WantReadError:
                break
            except SSL.ZeroReturnError:
                self.closed = True
                break
            except SSL.Error as exc:
                raise self._failure(exc) from exc
        return b"".join(parts) if len(parts) != 1 else parts[0]

    def send_data(self, data: bytes) -> None:
        """Encrypt ``data``; fetch it with ``data_to_send``. After a failure nothing more can be sent."""
        if self._failed:
            return
        # pyOpenSSL enables partial writes: one record per call. A memory BIO never blocks.
        sent = self._connection.send(data)
        if sent < len(data):
            rest = memoryview(data)[sent:]
            while rest:
                rest = rest[self._connection.send(rest) :]

    def send_close(self) -> None:
        """Append close_notify."""
        try:
            self._connection.shutdown()
        except SSL.Error:
            # Before the handshake is over, or after a fatal alert, there is no peer to send it to.
            return

    def data_to_send(self) -> bytes:
        """Return all bytes that wait for the socket."""
        parts = []
        while True:
            try:
                part = self._connection.bio_read(_READ_BYTES)
            except SSL.WantReadError:
                break
            parts.append(part)
            if len(part) < _READ_BYTES:
                break
        return b"".join(parts) if len(parts) != 1 else parts[0]

    def peer_certificate_der(self) -> bytes:
        """Return the certificate whose key the peer has proved to hold. Only when established.

        Raises:
            RemoteProtocolError: ``peer-certificate``: there is none. The context lets no such peer get here.
        """
        certificate = self._connection.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            raise RemoteProtocolError("peer-certificate", "the peer has shown no certificate")
        return certificate.public_bytes(Encoding.DER)

    def export(self, context: bytes) -> bytes:
        """Return 32 bytes that only the two ends of this connection know."""
        return self._connection.export_keying_material(EXPORTER_LABEL, EXPORTER_BYTES, context)

    def _handshake(self) -> None:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return
        except SSL.Error as exc:
            raise self._failure(exc) from exc
        if self._connection.get_alpn_proto_negotiated() != ALPN:
            raise RemoteProtocolError("tls-alpn", "the peer does not use the bond protocol")
        # The context allows nothing else. If it ever did, going on would be unsafe.
        assert self._connection.get_protocol_version() == SSL.TLS1_3_VERSION
        self.established = True

    def _failure(self, error: SSL.Error) -> RemoteProtocolError:
        self._failed = True
        return RemoteProtocolError("tls-failed", f"TLS failed: {_text_of(error)}")


def _text_of(error: SSL.Error) -> str:
    """Return OpenSSL's own reasons, which pyOpenSSL keeps in ``args``."""
    for arg in error.args:
        if isinstance(arg, list) and arg:
            return "; ".join(str(item[-1]) for item in arg)
    return ", ".join(str(arg) for arg in error.args) or type(error).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerKey:
    """A key that the peer proved to hold.

    Attributes:
        peer_id: 32 bytes.
        spki_der: canonical DER of the SubjectPublicKeyInfo (uncompressed point).
    """

    peer_id: bytes
    spki_der: bytes


def peer_key_untrusted(certificate_der: bytes) -> PeerKey:
    """Return the key of a peer's certificate.

    Raises:
        RemoteProtocolError: ``peer-certificate``.
    """
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        key = certificate.public_key()
        signature_hash = certificate.signature_hash_algorithm
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise RemoteProtocolError("peer-certificate", "the peer's key is not P-256")
        if not isinstance(signature_hash, SHA256):
            raise RemoteProtocolError("peer-certificate", "signed otherwise than ecdsa-with-SHA256")
        # This also checks that issuer and subject are the same name.
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature) as exc:
        raise RemoteProtocolError("peer-certificate", "not a self-signed certificate") from exc
    except Exception as exc:
        if isinstance(exc, RemoteProtocolError):
            raise
        # cryptography can also raise UnsupportedAlgorithm, and parser errors of its own.
        raise RemoteProtocolError("peer-certificate", "a certificate that cannot be read") from exc
    # Encoded again, so that one key has one id, whatever form its point had in the certificate.
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PeerKey(peer_id=peer_id_of_spki(spki), spki_der=spki)
