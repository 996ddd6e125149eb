"""The attester's error tree."""


class EnclaveError(Exception):
    """The base: a facility that a trust domain should offer is missing."""


class NotATrustDomainError(EnclaveError):
    """No TSM provider: this machine is not a TD, or its kernel does not offer quotes."""


class QuoteUnavailableError(EnclaveError):
    """This is a TD, but no quote is available now (quoting service busy, down, or the host refused)."""


class MockAuthorityError(EnclaveError):
    """The saved mock authority cannot be read: the message names the file and the remedy."""
