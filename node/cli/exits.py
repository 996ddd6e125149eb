"""What the exit codes mean, for every command: one table.

0   yes: done, accepted, intact, found
1   no: refused, broken, not there. It was decided, and asking again gives the same answer
2   usage: the command line, a file or a variable is wrong
3   could not decide: nobody could be reached, the credentials are not enough, something to judge by is
    missing, or a write may or may not have happened
"""

from typing import Final

from attestation.errors import AttestationError
from attestation.files import FileError
from enclave.errors import EnclaveError, MockAuthorityError, QuoteUnavailableError
from enclave.image.errors import GuestConfigError
from node.client import ClientError, RefusedError
from node.errors import ConfigError, NodeError

YES: Final = 0
NO: Final = 1
USAGE: Final = 2
UNDECIDED: Final = 3

# Which refusals of a node answer the question. Every other one (no credentials, no role, not ready, its own
# failure) leaves it open.
_ANSWERS: Final = frozenset(
    {
        "command-failed",
        "access-refused",
        "birth-certificate-refused",
        "query-failed",
        "provision-refused",
        "superseded",
        "idempotency-key-reused",
        "audit-chain-broken",
    }
)
_MISTAKES: Final = frozenset({"request-invalid", "body-too-large", "head-too-large"})
EXPECTED: Final = (NodeError, AttestationError, EnclaveError, FileError)


def exit_code_of(failure: Exception) -> int:
    """Return the exit code for an error that ends a command."""
    match failure:
        case ConfigError() | FileError() | GuestConfigError() | MockAuthorityError():
            return USAGE
        case RefusedError():
            if failure.code in _ANSWERS:
                return NO
            return USAGE if failure.code in _MISTAKES else UNDECIDED
        case ClientError() | QuoteUnavailableError():
            return UNDECIDED
        case AttestationError():
            return UNDECIDED if failure.undecided else NO
        case _:
            return NO


def word_of(code: int) -> str:
    """Return what a verdict with this exit code is called."""
    return {YES: "accepted", NO: "refused", USAGE: "error"}.get(code, "undecided")
