"""The entries that a pull has asked of each source, and those that it still has to ask for (3.5)."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from node.peers import Incarnation
from node.raft.messages import Append, Chunk

RANGE_ENTRIES: Final = 512
# This many ranges are on their way from one source at a time, so that a slow answer does not stop the pull. A
# leader serves fewer, because it has other work.
RANGES_PER_SOURCE: Final = 8
RANGES_OF_LEADER: Final = 2
# A range whose source goes on answering other ranges is given up after this many election timeouts.
OVERTAKEN_FACTOR: Final = 4
# This many ranges that were given up are remembered, for answers that still come late.
GIVEN_UP_MAX: Final = 64


@dataclass(slots=True)
class Range:
    """Entries ``after+1..upto``, asked of one source at ``sent_ms``."""

    after: int
    upto: int
    sent_ms: int


@dataclass(slots=True)
class Flight:
    """The ranges that one source was asked for.

    Attributes:
        contact_ms: when it last answered; at first, when it was first asked.
        ranges: by ``after``, oldest first.
    """

    contact_ms: int
    ranges: dict[int, Range] = field(default_factory=dict)

    def due_ms(self, patience_ms: int) -> int:
        """Return when the oldest range is late."""
        sent_ms = next(iter(self.ranges.values())).sent_ms
        return min(max(sent_ms, self.contact_ms) + patience_ms, sent_ms + OVERTAKEN_FACTOR * patience_ms)


@dataclass(slots=True)
class PullState:
    """One pull, valid in one term.

    Attributes:
        target: the end of the wanted entries: the latest ``prev`` that we could not match.
        known: how far each peer can serve.
        cut_at: from which index on, exclusive: 0 for a peer that did not report a cut log.
        at: the next index to search an agreement at (while not ``joined``), then the first unassigned.
        joined: the start is agreed upon.
        span: how many entries to ask for at a time: what fits into a chunk.
        in_flight: what each source was asked; no source without a range.
        again: ranges to be asked anew, sorted.
        resting: sources that could not help, and when to try them again.
        given_up: ranges whose answer did not come in time, by source and ``after``, oldest first.
        held: chunks whose predecessor is not in our log yet, by ``after``.
        buffer: the leader's Appends since, contiguous.
        buffer_bytes: their size.
    """

    term: int
    target: int
    at: int
    started_ms: int
    asked_ms: int
    joined: bool = False
    span: int = RANGE_ENTRIES
    known: dict[Incarnation, int] = field(default_factory=dict)
    cut_at: dict[Incarnation, int] = field(default_factory=dict)
    in_flight: dict[Incarnation, Flight] = field(default_factory=dict)
    again: list[tuple[int, int]] = field(default_factory=list)
    resting: dict[Incarnation, int] = field(default_factory=dict)
    given_up: dict[tuple[Incarnation, int], Range] = field(default_factory=dict)
    held: dict[int, Chunk] = field(default_factory=dict)
    buffer: deque[Append] = field(default_factory=deque)
    buffer_bytes: int = 0

    @property
    def outstanding(self) -> int:
        """The number of chunks asked for or held: they may all have to be kept in memory."""
        return len(self.held) + sum(len(flight.ranges) for flight in self.in_flight.values())

    @property
    def lowest(self) -> int:
        """The predecessor of the first entry that no source is asked for."""
        return min(self.again[0][0], self.at) if self.again else self.at

    def next_range(self, reach: int) -> tuple[int, int] | None:
        """Take the first range for a source that can serve up to ``reach``."""
        for position, (after, upto) in enumerate(self.again):
            if reach > after:
                end = min(upto, reach, after + self.span)
                del self.again[position]
                self.ask_again(end, upto)
                return after, end
        upto = min(self.at + self.span, self.target, reach)
        if upto <= self.at:
            return None
        after, self.at = self.at, upto
        return after, upto

    def ask_again(self, after: int, upto: int) -> None:
        if upto > after:
            self.again.append((after, upto))
            self.again.sort()

    def can_serve(self, source: Incarnation) -> bool:
        """Return whether ``source`` has the lowest entries that no source is asked for, as far as we know."""
        return self.cut_at.get(source, 0) <= self.lowest

    def skip(self, index: int) -> None:
        """Note that the entries up to ``index`` are here, however they came: no source need have them."""
        self.at = max(self.at, index)
        self.again = [(max(after, index), upto) for after, upto in self.again if upto > index]

    def cut(self, source: Incarnation, base: int) -> None:
        """Note that ``source`` has no entry up to ``base``: others are asked for what it was asked."""
        self.cut_at[source] = base
        flight = self.in_flight.get(source)
        if flight is None:
            return
        for after in [after for after in flight.ranges if after < base]:
            asked = flight.ranges.pop(after)
            if self.joined:
                self.ask_again(after, asked.upto)
        if not flight.ranges:
            del self.in_flight[source]

    def sent(self, source: Incarnation, after: int, upto: int, now_ms: int) -> None:
        flight = self.in_flight.get(source)
        if flight is None:
            flight = self.in_flight[source] = Flight(now_ms)
        flight.ranges[after] = Range(after, upto, now_ms)

    def answered(self, source: Incarnation, after: int, now_ms: int) -> Range | None:
        """Return the range that an answer belongs to; None if it was not asked for, or was given up."""
        flight = self.in_flight.get(source)
        asked = None if flight is None else flight.ranges.pop(after, None)
        if flight is not None and asked is not None:
            flight.contact_ms = now_ms
            if not flight.ranges:
                del self.in_flight[source]
        return asked

    def answered_late(self, source: Incarnation, after: int, places: int) -> Range | None:
        """Return the range that a late answer saves us from waiting for; None if it is not wanted.

        The late source takes the place of the source that is asked for the same range now, if there is such a
        source. During the search an answer is wanted if the search is still at that range.
        """
        asked = self.given_up.pop((source, after), None)
        if asked is None:
            return None
        if not self.joined and after != self.at:
            return None
        for other, flight in self.in_flight.items():
            now_asked = flight.ranges.pop(after, None)
            if now_asked is not None:
                if not flight.ranges:
                    del self.in_flight[other]
                return now_asked
        if not self.joined:
            return asked
        for position, (start, upto) in enumerate(self.again):
            if start == after and self.outstanding < places:
                del self.again[position]
                return Range(after, upto, asked.sent_ms)
        return None

    def fit_span(self, asked: Range, count: int) -> None:
        """Fit the span to a chunk of ``count`` entries: ask for as many entries as fit into one chunk."""
        cut = count < asked.upto - asked.after
        self.span = count if cut else min(max(self.span, 2 * count), RANGE_ENTRIES)

    def take_late(self, source: Incarnation, now_ms: int, patience_ms: int) -> list[Range]:
        """Give up the ranges of ``source`` that are late by now; return them."""
        flight = self.in_flight[source]
        late = []
        while flight.ranges and now_ms >= flight.due_ms(patience_ms):
            asked = flight.ranges.pop(next(iter(flight.ranges)))
            late.append(asked)
            self.given_up.pop((source, asked.after), None)
            self.given_up[source, asked.after] = asked
        while len(self.given_up) > GIVEN_UP_MAX:
            del self.given_up[next(iter(self.given_up))]
        if not flight.ranges:
            del self.in_flight[source]
        return late
