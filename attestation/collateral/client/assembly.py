"""A set of endorsements with its provenance, and the checks that make it fit to keep. Sans-IO."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from attestation.collateral.client.requests import PckCaKind, Platform, TcbUpdate
from attestation.collateral.endorsements import (
    COLLATERAL_BYTES_MAX,
    Endorsements,
    VerifiedEndorsements,
    verify_endorsements,
)
from attestation.collateral.signed_json import parse_json_untrusted, read_map, time
from attestation.encoding.canonical import digest
from attestation.encoding.fields import anything, integer, text
from attestation.errors import CertificatePathError, MalformedError
from attestation.values import timestamp
from attestation.x509.certificates import split_pem_untrusted
from attestation.x509.trust import TrustRoot

AGE_MAX: Final = timedelta(hours=24)
# A share of the time until a refresh is due: nodes that started together must not all fetch together.
JITTER_SHARE: Final = 0.2
_CA_NAMES: Final = {
    PckCaKind.PLATFORM: "SGX PCK Platform CA",
    PckCaKind.PROCESSOR: "SGX PCK Processor CA",
}
_RECORD_BYTES_MAX: Final = COLLATERAL_BYTES_MAX + 64 * 1024
_RECORD_VERSION: Final = 1
_VERSION: Final = integer(_RECORD_VERSION, _RECORD_VERSION)
_SOURCE: Final = text(_RECORD_BYTES_MAX)  # a URL of our own configuration, of any length


@dataclass(frozen=True, slots=True, kw_only=True)
class Collateral:
    """One platform's endorsements, verified, and where they came from.

    Attributes:
        platform: the platform.
        endorsements: raw, to staple to tickets.
        verified: the same, as of ``verified.verified_at``; call its ``require_current`` before each use.
        fetched_at: aware UTC.
        refresh_at: aware UTC; from then on a newer set is fetched.
        source: base URL, for people.
    """

    platform: Platform
    endorsements: Endorsements
    verified: VerifiedEndorsements
    fetched_at: datetime
    refresh_at: datetime
    source: str


def verify_set(
    platform: Platform,
    endorsements: Endorsements,
    *,
    root: TrustRoot,
    now: datetime,
) -> VerifiedEndorsements:
    """Return the verified set, after checking that it is the requested platform's.

    Raises:
        MalformedError: something is not what it claims to be, or of another FMSPC or CA.
        VerificationError: something is not genuine, revoked, or outside its window.
    """
    verified = verify_endorsements(endorsements, root=root, now=now)
    if verified.tcb_info.fmspc != platform.fmspc:
        raise MalformedError(
            "tcb-info-fmspc",
            "the source answered with the TCB info of another platform",
            values={"expected": platform.fmspc.hex(), "found": verified.tcb_info.fmspc.hex()},
        )
    ca_name = require_genuine_pck_crl(endorsements, verified)
    if _CA_NAMES[platform.ca] not in ca_name:
        raise MalformedError(
            "pck-crl-ca",
            "the source answered with the CRL of the other PCK CA",
            values={"expected": _CA_NAMES[platform.ca], "found": ca_name},
        )
    return verified


def require_genuine_pck_crl(endorsements: Endorsements, verified: VerifiedEndorsements) -> str:
    """Return the common name of the CA that signed the PCK CRL, itself checked up to the root.

    A verifier does this with the quote's own CA. Where there is no quote yet, the chain that came with the
    CRL replaces it: a forged CRL must not get into a cache.

    Raises:
        MalformedError: the bytes are not a chain.
        VerificationError: the chain does not lead to the root, or the CRL is not signed by its CA.
    """
    chain = split_pem_untrusted(endorsements.pck_crl_issuer_chain, role="pck-ca", count_max=3)
    if not chain:
        raise CertificatePathError("pck-ca-chain-length", "the PCK CRL came without its issuer")
    return verified.authentic.require_pck_ca(chain[0]).certificate.common_name


def refresh_at(fetched_at: datetime, valid_until: datetime, jitter: float) -> datetime:
    """Return when to fetch a newer set: after 24 h or half of the window's rest, whichever is sooner.

    Args:
        fetched_at: aware UTC.
        valid_until: end of the set's window, aware UTC.
        jitter: in [0, 1); brings the moment forward by up to a fifth.
    """
    left = max(valid_until - fetched_at, timedelta(0))
    return fetched_at + min(AGE_MAX, left / 2) * (1 - JITTER_SHARE * jitter)


def cache_key(root: TrustRoot, platform: Platform, update: TcbUpdate) -> str:
    """Return the name under which a set is kept, in memory and on disk: 64 hex digits."""
    return digest(
        "bondstone/collateral-cache/v1",
        root.spki_digest,
        platform.fmspc,
        str(platform.ca),
        str(update),
    ).hex()


def encode_record(collateral: Collateral) -> bytes:
    """Return the JSON that the disk cache keeps."""
    record = {
        "version": _RECORD_VERSION,
        "fetched_at": timestamp(collateral.fetched_at),
        "source": collateral.source,
        "endorsements": collateral.endorsements.to_json_value(),
    }
    return json.dumps(record, indent=1).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A parsed cache record; nothing in it is verified, since the disk is the host's."""

    endorsements: Endorsements
    fetched_at: datetime
    source: str


def parse_record_untrusted(data: bytes) -> Record:
    """Parse a record that ``encode_record`` made.

    Raises:
        MalformedError: ``cache-record-malformed``, or ``collateral-malformed`` for the set in it.
    """
    value = parse_json_untrusted(data, code="cache-record", bytes_max=_RECORD_BYTES_MAX)
    members = read_map(value, code="cache-record")
    members.take("version", _VERSION)
    return Record(
        endorsements=Endorsements.from_json_value_untrusted(members.take("endorsements", anything)),
        fetched_at=members.take("fetched_at", time),
        source=members.take("source", _SOURCE),
    )
