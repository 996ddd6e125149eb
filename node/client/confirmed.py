"""Requires the authority's birth certificate of the cluster before the client sends it a request."""

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from attestation.tickets.protocol import Cluster
from node.authority import Authority, AuthorityError
from node.client.errors import ClusterNotConfirmedError
from node.client.pins import PinError, Pins
from node.errors import ConfigError
from node.group_document import load_group_document
from node.system.birth import birth_certificate_untrusted


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmedBy:
    """The authority whose signature a client requires before it accepts a cluster as the group.

    Attributes:
        authority: of the group document.
        group_id: 32 bytes.
        pins: file that keeps the newest certificate's number; None: it is kept for the client's life only.
    """

    authority: Authority
    group_id: bytes
    pins: Path | None = None

    @classmethod
    def of_document(cls, group_document: Path, *, pins: Path | None = None) -> Self:
        """Return the requirement of a group document.

        Raises:
            ConfigError: it cannot be read, or names no authority.
        """
        document = load_group_document(group_document)
        if document.authority is None:
            raise ConfigError(f"{group_document}: there is no [authority] whose signature could be required")
        return cls(authority=document.authority, group_id=document.group_id, pins=pins)

    def cluster_of_untrusted(self, certificate: str | None) -> Cluster:
        """Return the cluster that a birth certificate (base64) confirms, and remember its number.

        Raises:
            ClusterNotConfirmedError: there is no certificate, it does not verify, or a later one was seen.
        """
        if certificate is None:
            raise ClusterNotConfirmedError(
                "cluster-not-confirmed", "no authority's signature says that this cluster is the group"
            )
        try:
            parsed = birth_certificate_untrusted(base64.b64decode(certificate, validate=True))
            confirmed = parsed.verified(self.authority, group_id=self.group_id)
            if self.pins is not None:
                pins = Pins.load(self.pins)
                pins.with_verified(self.group_id, confirmed.cluster, confirmed.statement.seq).save()
        except binascii.Error as exc:
            text = "the birth certificate is not base64"
            raise ClusterNotConfirmedError("birth-certificate-malformed", text) from exc
        except (AuthorityError, PinError) as exc:
            raise ClusterNotConfirmedError(exc.reason, exc.message) from exc
        return confirmed.cluster
