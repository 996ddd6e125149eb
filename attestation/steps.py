"""The steps of one verification, in order. Every refusal carries the number of the step that made it.

``docs/attestation.md`` walks through the same list with a real quote.
"""

from enum import StrEnum

from attestation.errors import AttestationError


class Step(StrEnum):
    """Number of a step; the comment states what the step establishes."""

    PARSE = "1"  # the quote is well-formed, within its limits
    HEADER = "2"  # this verifier supports the version, key type, TEE type and vendor
    ROOT = "3"  # every chain ends in the pinned root
    ROOT_CRL = "4"  # the root's CRL is the root's own
    TCB_INFO = "5"  # TCB info: its signer's path and role, its signature, its form
    QE_IDENTITY = "6"  # QE identity: the same
    WINDOWS = "7"  # every endorsement is inside its validity window at now
    PCK_CHAIN = "8"  # the quote's PCK chain: three certificates, links, roles, revocation of the CA
    PCK_CRL = "9"  # the PCK CA's CRL is its own, and does not list the PCK
    PCK_WINDOWS = "10"  # the PCK chain is inside its validity windows at now
    PLATFORM = "11"  # TCB info is for this platform: FMSPC and PCEID
    QE_REPORT = "12"  # the QE report is signed by the PCK
    BINDING = "13"  # the QE report commits to the attestation key
    SIGNATURE = "14"  # the quote is signed by the attestation key
    QE = "15"  # the QE matches Intel's description; its level
    MODULE = "16"  # the TDX module matches an entry of Intel's; its level
    LEVEL = "17"  # the platform's TCB level
    STATUS = "18"  # convergence of the levels, and the relaunch rule; Revoked ends here
    TD_RULES = "19"  # TD attributes, XFAM, bound service TDs
    TCB_POLICY = "20"  # TCB status, advisories, SVNs and evaluation number that the policy accepts
    REFERENCE_VALUES = "21"  # measurements
    REPORT_DATA = "22"  # REPORTDATA
    EVENT_LOG = "23"  # registers that the policy wants explained


class at_step:  # noqa: N801  # used as a statement, like contextlib.suppress
    """Give every refusal from inside the block this step's number, unless it already has one."""

    __slots__ = ("_step",)

    def __init__(self, step: Step) -> None:
        self._step = step

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, AttestationError) and exc.step is None:
            exc.step = self._step.value
