"""The permitted signers of Intel's JSON documents: a TCB Signing certificate right below the pinned root.

One set of rules for TCB info, QE identity and the evaluation data numbers (A6.1, A6.3 and A15.1).
Time is not judged here.
"""

from attestation.errors import CertificatePathError, SignatureError
from attestation.steps import Step
from attestation.x509.certificates import (
    Certificate,
    load_certificate_untrusted,
    require_issued_by,
    require_leaf,
    require_role,
    split_pem_untrusted,
)
from attestation.x509.crl import RevocationList, require_not_revoked
from attestation.x509.ecdsa import is_signature_valid
from attestation.x509.trust import TrustRoot


def load_signer_untrusted(chain: bytes, *, role: str, root: TrustRoot) -> Certificate:
    """Return the leaf of an issuer chain: leaf, root; or leaf alone, the pinned root being implied.

    Args:
        chain: PEM.
        role: prefix of the reason codes, such as ``tcb-info-signer``.
        root: the pinned root.

    Raises:
        MalformedError: ``<role>-malformed`` or ``<role>-chain-malformed``.
        CertificatePathError: ``<role>-chain-length`` or ``untrusted-root``.
    """
    blocks = split_pem_untrusted(chain, role=role, count_max=4)
    if len(blocks) not in {1, 2}:
        raise CertificatePathError(
            f"{role}-chain-length",
            f"the {role}'s chain has {len(blocks)} certificates, expected signer and root",
            values={"expected": 2, "actual": len(blocks)},
        )
    if len(blocks) == 2:
        require_pinned(blocks[1], root)
    return load_certificate_untrusted(blocks[0], role=role)


def require_pinned(der: bytes, root: TrustRoot) -> None:
    """Require that a chain's last certificate is the pinned root, byte for byte.

    Raises:
        CertificatePathError: ``untrusted-root``.
    """
    if der != root.certificate_der:
        raise CertificatePathError(
            "untrusted-root", "a chain ends in another root than the pinned one", step=Step.ROOT
        )


def require_signer(signer: Certificate, root: TrustRoot, root_crl: RevocationList) -> None:
    """Require that the root issued this certificate for signing TCB documents, and did not revoke it.

    Args:
        signer: from ``load_signer_untrusted``.
        root: the pinned root.
        root_crl: already verified as the root's own CRL.

    Raises:
        VerificationError: ``<role>-issuer-mismatch``, ``-signature``, ``-role``, ``-not-leaf``, ``-revoked``.
    """
    require_issued_by(signer, root.certificate)
    require_role(signer, "SGX TCB Signing")
    require_leaf(signer)
    require_not_revoked(signer, root_crl)


def require_document_signature(signer: Certificate, signature: bytes, document: bytes, *, code: str) -> None:
    """Require that ``signer`` signed exactly these bytes.

    Args:
        signer: already checked by ``require_signer``.
        signature: raw ``r||s``, 64 bytes.
        document: the bytes as received, never serialised again.
        code: prefix of the reason code.

    Raises:
        SignatureError: ``<code>-signature``.
    """
    if not is_signature_valid(signer.public_key, signature, document):
        raise SignatureError(f"{code}-signature", f"the {code} is not signed by its signer's certificate")
