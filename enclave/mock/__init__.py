"""A mock trust domain and its mock quoting authority: the same bytes, under another root.

Nothing in here signs with a key of Intel's, so everything it makes verifies under its own root only,
and ``TrustRoot`` marks every root but Intel's as mock.
"""

from enclave.mock.authority import MockAuthority

__all__ = ["MockAuthority"]
