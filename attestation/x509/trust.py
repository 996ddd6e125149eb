"""Trust anchors. The caller pins one; nothing from a quote or from collateral ever becomes one."""

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.errors import MalformedError, VerificationError
from attestation.x509.certificates import (
    Certificate,
    load_certificate_untrusted,
    require_ca,
    require_issued_by,
    split_pem_untrusted,
)

# Intel SGX Root CA, valid 2018-05-21 to 2049-12-31, SHA-256 of the DER
# 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3 (A5.4).
_INTEL_SGX_ROOT_DER: Final = base64.b64decode(
    b"MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIwaDEaMBgGA1UEAwwRSW50ZWwg"
    b"U0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkG"
    b"A1UECAwCQ0ExCzAJBgNVBAYTAlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgGA1UEAwwR"
    b"SW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFy"
    b"YTELMAkGA1UECAwCQ0ExCzAJBgNVBAYTAlVTMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPW"
    b"sCzaEKi71OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxFP2sJBK5zlKOBuzCBuDAfBgNVHSME"
    b"GDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJMEegRaBDhkFodHRwczovL2NlcnRpZmljYXRlcy50"
    b"cnVzdGVkc2VydmljZXMuaW50ZWwuY29tL0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInzg7SV"
    b"Ur9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYIKoZIzj0EAwIDSQAwRgIhAOW/"
    b"5QkR+S9CiSDcNoowLuPRLsWGf/Yi7GSX94BgwTwgAiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI="
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRoot:
    """A pinned, self-signed root certificate.

    ``mock`` cannot hide a mock root: the constructor raises unless it is False for Intel's own certificate,
    byte for byte, and True for every other one.

    Attributes:
        spki_digest: SHA-256 over the DER SubjectPublicKeyInfo, 32 bytes.
        fingerprint: SHA-256 over the certificate's DER, 32 bytes.

    Raises:
        MalformedError: ``root-*``: not a self-signed P-256 CA certificate, or ``mock`` contradicts its bytes.
    """

    certificate_der: bytes
    mock: bool
    certificate: Certificate = field(init=False, repr=False, compare=False)
    spki_digest: bytes = field(init=False, repr=False, compare=False)
    fingerprint: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mock == (self.certificate_der == _INTEL_SGX_ROOT_DER):
            raise MalformedError("root-mock-flag", "only Intel's own root certificate is not a mock root")
        certificate = load_certificate_untrusted(self.certificate_der, role="root")
        try:
            require_issued_by(certificate, certificate)
            require_ca(certificate, intermediates_below=1)
        except VerificationError as exc:
            raise MalformedError(
                "root-malformed", "the trust root is not a self-signed CA certificate"
            ) from exc
        spki = certificate.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        object.__setattr__(self, "certificate", certificate)
        object.__setattr__(self, "spki_digest", hashlib.sha256(spki).digest())
        object.__setattr__(self, "fingerprint", hashlib.sha256(self.certificate_der).digest())

    @classmethod
    def from_bytes_untrusted(cls, data: bytes) -> Self:
        """Read a root from PEM or DER. It is a mock root unless it is Intel's, byte for byte.

        Raises:
            MalformedError: ``root-*``.
        """
        blocks = split_pem_untrusted(data, role="root", count_max=1)
        der = blocks[0] if blocks else data
        return cls(certificate_der=der, mock=der != _INTEL_SGX_ROOT_DER)


INTEL_SGX_ROOT: Final = TrustRoot(certificate_der=_INTEL_SGX_ROOT_DER, mock=False)
