"""Which platform a quote comes from, by its own account: what decides which collateral to fetch."""

from cryptography.x509.oid import NameOID

from attestation.collateral.client.requests import PckCaKind, Platform
from attestation.errors import MalformedError
from attestation.quote.codec import Quote
from attestation.quote.layout import CERTIFICATION_PCK_CHAIN
from attestation.x509.certificates import load_certificate_untrusted, split_pem_untrusted
from attestation.x509.pck import parse_pck_extension_untrusted


def platform_of_quote_untrusted(quote: Quote) -> Platform:
    """Return FMSPC and CA as the quote's PCK certificate has them. Nothing is verified.

    A lie costs a fetch of the wrong collateral, under which the quote then does not verify.

    Raises:
        MalformedError: ``quote-no-pck-chain``, ``pck-*``: there is no PCK certificate of Intel's form in it.
    """
    data = quote.signature_data
    if data.certification_type != CERTIFICATION_PCK_CHAIN:
        raise MalformedError(
            "quote-no-pck-chain",
            f"the quote has certification data of type {data.certification_type}, not a PCK chain (5); "
            "its FMSPC and CA must come from elsewhere",
        )
    return platform_of_pck_chain_untrusted(data.certification_data)


def platform_of_pck_chain_untrusted(pem: bytes) -> Platform:
    """Return FMSPC and CA of the first certificate of a PCK chain. Nothing is verified.

    Raises:
        MalformedError: ``pck-*``: there is no PCK certificate of Intel's form.
    """
    blocks = split_pem_untrusted(pem, role="pck", count_max=4)
    if not blocks:
        raise MalformedError("pck-chain-malformed", "the PCK chain has no certificate")
    leaf = load_certificate_untrusted(blocks[0], role="pck")
    if leaf.sgx_extension is None:
        raise MalformedError("pck-extension-missing", "the PCK certificate has no SGX extension")
    names = leaf.parsed.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    issuer = str(names[0].value) if names else ""
    for ca in PckCaKind:
        if f"PCK {ca.capitalize()} CA" in issuer:
            return Platform(fmspc=parse_pck_extension_untrusted(leaf.sgx_extension).fmspc, ca=ca)
    raise MalformedError(
        "pck-issuer-unknown",
        "the PCK certificate's issuer is neither the Platform nor the Processor CA",
        values={"found": issuer[:100]},
    )
