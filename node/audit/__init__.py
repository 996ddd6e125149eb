"""The audit log: a hash chain of JSON lines over files that are limited in number and size.

``chain`` defines a valid chain, ``life`` the owner of its events, ``segments`` the files that hold it, and
``log`` is the log of a running node.
"""

from node.audit.chain import (
    AuditChain,
    AuditChainError,
    AuditHead,
    HeadGoneError,
    verify_kept_untrusted,
    verify_untrusted,
)
from node.audit.life import SignedLife
from node.audit.log import AuditLimits, AuditLog
from node.audit.segments import lines_of_log

__all__ = [
    "AuditChain",
    "AuditChainError",
    "AuditHead",
    "AuditLimits",
    "AuditLog",
    "HeadGoneError",
    "SignedLife",
    "lines_of_log",
    "verify_kept_untrusted",
    "verify_untrusted",
]
