"""Makes this node's own TDX tickets: claims, a quote over them, and the data that peers need to judge it."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from attestation.errors import MalformedError
from attestation.eventlog.ccel import encode_ccel, parse_ccel_untrusted
from attestation.eventlog.events import Event
from attestation.eventlog.verify import encode_event_log
from attestation.quote.codec import parse_quote_untrusted
from attestation.tickets.protocol import Cluster
from attestation.tickets.store import EndorsementsSource
from attestation.tickets.tdx import TICKET_CLASS, TdxClaims, TdxTicket
from attestation.values import whole_seconds
from enclave.attester import Attester
from enclave.errors import QuoteUnavailableError
from enclave.identity import Identity


class TdxTicketIssuer:
    """A :class:`attestation.tickets.protocol.TicketIssuer` of class ``tdx``.

    Args:
        attester: the TD that this node runs in.
        identity: this incarnation.
        network_id: 32 bytes.
        endorsements_source: collateral of our own platform, to staple; None to staple none.
        started_at: when this node started, aware UTC.
        lifetime: from quote to expiry.
        runtime_events: the events that this node has extended into RTMR3, in order.
    """

    def __init__(
        self,
        *,
        attester: Attester,
        identity: Identity,
        network_id: bytes,
        endorsements_source: EndorsementsSource | None,
        started_at: datetime,
        lifetime: timedelta,
        runtime_events: Callable[[], Sequence[Event]] = tuple,
    ) -> None:
        self._attester = attester
        self._identity = identity
        self._network_id = network_id
        self._endorsements_source = endorsements_source
        self._started_at = whole_seconds(started_at)
        self._lifetime = lifetime
        self._runtime_events = runtime_events

    @property
    def ticket_class(self) -> str:
        return TICKET_CLASS

    def issue(
        self,
        *,
        group_id: bytes | None,
        cluster: Cluster | None,
        binding: bytes | None,
        now: datetime,
        group_ca: bytes | None = None,
    ) -> bytes:
        """Return a fresh ticket. Blocking: call in a thread.

        Args:
            group_id: the group whose bond is being formed, 32 bytes; None outside a group.
            cluster: the cluster of which this node holds a committed entry; None before that.
            binding: from the verifier's nonce and this connection, 32 bytes; None for publication.
            now: aware.
            group_ca: SHA-256 of the certificate of the group's authority, 32 bytes; None: not claimed.

        Raises:
            NotATrustDomainError: there is no TD here.
            QuoteUnavailableError: no quote, or no usable event log, is available.
        """
        quoted_at = whole_seconds(now)
        claims = TdxClaims(
            peer_id=self._identity.peer_id,
            network_id=self._network_id,
            group_id=group_id,
            cluster=cluster,
            # A clock that was set back since the start must not make the claims contradict themselves.
            started_at=min(self._started_at, quoted_at),
            quoted_at=quoted_at,
            expires_at=quoted_at + self._lifetime,
            binding=binding,
            group_ca=group_ca,
        )
        # The log comes first. An extension between log and quote would contradict the log.
        events = self._runtime_events()
        quote = self._attester.quote(claims.report_data())
        source = self._endorsements_source
        try:
            parsed = parse_quote_untrusted(quote)
        except MalformedError as exc:
            raise QuoteUnavailableError(f"the TD's quote cannot be used: {exc}") from exc
        ticket = TdxTicket(
            quote=quote,
            claims=claims,
            endorsements=None if source is None else source.endorsements_for(parsed, now),
            event_log=self._event_log(events),
        )
        try:
            return ticket.encode()
        except ValueError as exc:
            raise QuoteUnavailableError(f"no verifier would read this ticket: {exc}") from exc

    def _event_log(self, events: Sequence[Event]) -> bytes | None:
        raw = self._attester.event_log()
        if raw is None:
            return encode_event_log(None, events) if events else None
        try:
            # Firmware pads its log to a megabyte, and may log in banks that no RTMR has.
            ccel = encode_ccel(parse_ccel_untrusted(raw))
        except MalformedError as exc:
            raise QuoteUnavailableError(f"the platform's event log cannot be used: {exc}") from exc
        return encode_event_log(ccel, events)
