"""The audit log: a hash chain of JSON lines over files that are kept in number and size.

``chain`` says what a valid chain is, ``life`` whose events they are, ``segments`` which files it is in, and
``log`` is what a running node has.
"""

from node.audit.chain import (
    AuditChain,
    AuditChainError,
    AuditHead,
    HeadGoneError,
    verify_kept_untrusted,
    verify_untrusted,
)
from node.audit.life import Life
from node.audit.log import AuditLimits, AuditLog
from node.audit.segments import lines_of_log

__all__ = [
    "AuditChain",
    "AuditChainError",
    "AuditHead",
    "AuditLimits",
    "AuditLog",
    "HeadGoneError",
    "Life",
    "lines_of_log",
    "verify_kept_untrusted",
    "verify_untrusted",
]
