"""The attester's error tree."""


class EnclaveError(Exception):
    """The base: something that the inside of a trust domain should offer is not there."""


class NotATrustDomainError(EnclaveError):
    """No TSM provider: this machine is not a TD, or its kernel does not offer quotes."""


class QuoteUnavailableError(EnclaveError):
    """This is a TD, but no quote could be had now (quoting service busy, down, or the host refused)."""


class MockAuthorityError(EnclaveError):
    """The saved mock authority cannot be read: the message names the file and what to do."""
