"""What an exit code means is decided in one table."""

import pytest

from attestation.errors import AppraisalError, EndorsementsUnavailableError, MalformedError
from attestation.files import FileError
from enclave.errors import MockAuthorityError, NotATrustDomainError, QuoteUnavailableError
from node.api import schemas
from node.api.problems import CATALOGUE
from node.cli.exits import exit_code_of
from node.client import (
    AnswerInvalidError,
    NotExecutedError,
    OutcomeUnknownError,
    RefusedError,
    UnreachableError,
)
from node.errors import ConfigError, CorruptStorageError

UNKNOWN = schemas.Problem(type="t", title="t", status=400, code="to-come", detail="d")


def problem(code):
    kind = CATALOGUE[code]
    return schemas.Problem(type="t", title=kind.title, status=kind.status, code=code, detail="d")


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (ConfigError("x"), 2),
        (FileError("x"), 2),
        (MockAuthorityError("x"), 2),
        (UnreachableError("x"), 3),
        (AnswerInvalidError("x"), 3),
        (OutcomeUnknownError("x", "key"), 3),
        (NotExecutedError(problem("not-ready")), 3),
        (QuoteUnavailableError("x"), 3),
        (EndorsementsUnavailableError("r", "m"), 3),
        (AppraisalError("r", "m"), 1),
        (MalformedError("r", "m"), 1),
        (NotATrustDomainError("x"), 1),
        (CorruptStorageError("x"), 1),
        (RefusedError(UNKNOWN), 3),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, Exception) else str(given),
)
def test_each_kind_of_failure_has_its_exit_code(failure, code):
    assert exit_code_of(failure) == code


DECIDED = {
    1: {
        "command-failed",
        "access-refused",
        "birth-certificate-refused",
        "query-failed",
        "provision-refused",
        "transfer-refused",
        "removal-refused",
        "recovery-refused",
        "superseded",
        "idempotency-key-reused",
        "audit-chain-broken",
    },
    2: {"request-invalid", "body-too-large", "head-too-large"},
}


@pytest.mark.parametrize("code", CATALOGUE)
def test_a_refusal_is_a_no_only_if_it_answers_the_question(code):
    expected = next((number for number, codes in DECIDED.items() if code in codes), 3)
    assert exit_code_of(RefusedError(problem(code))) == expected
