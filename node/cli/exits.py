"""The meaning of the exit codes of every command, in one table.

0   yes: done, accepted, intact, found
1   no: refused, broken, not there. This is decided, and a repetition has the same result
2   usage: the command line, a file or a variable is wrong
3   could not decide: no node could be reached, the credentials are not enough, something needed for the
    verdict is missing, or a write may or may not have happened
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

# The refusals of a node that decide the question. Every other refusal (no credentials, no role, not ready,
# its own failure) leaves it undecided.
_ANSWERS: Final = frozenset(
    {
        "command-failed",
        "access-refused",
        "transfer-refused",
        "removal-refused",
        "recovery-refused",
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
    """Return the name of a verdict with this exit code."""
    return {YES: "accepted", NO: "refused", USAGE: "error"}.get(code, "undecided")
