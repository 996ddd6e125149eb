"""I3: the ACKs of members, judged by their logs when they promise one, and by their disks when they send it.

An ACK that waits for a disk was promised by the log of its step. Until the disk is done, a leader of a newer
term may have had that log cut. The member sends the ACK all the same, and this does no harm: the ACK counts
in its own term only, as an ACK that the network delayed would. The voters elected the newer leader before the
older one could have had a quorum with this ACK, for a voter that holds an entry grants no vote to a candidate
that lacks it (3.4).
"""

from collections import defaultdict

from node.peers import Incarnation
from node.raft.messages import ACK, AppendReply
from node.raft.quorum import Config, is_quorum
from node.raft.types import Cursor, Position
from node.simulation.disk import Disk
from node.simulation.errors import InvariantError
from node.simulation.process import Process
from node.simulation.views import LogTree, Promise


class Acks:
    """All ACKs of one run.

    Attributes:
        sent: by (cluster, term): how far each incarnation has ACKed.
        claimed: the same, for what each has named as verified in that term in an answer to a vote request.
    """

    def __init__(
        self,
        tree: LogTree,
        leaders: dict[tuple[int, int], Incarnation],
        leader_logs: dict[tuple[int, int], list[int]],
        committed: dict[int, list[int]],
        *,
        min_voters: int,
        rules: bool,
    ) -> None:
        self.sent: defaultdict[tuple[bytes, int], dict[Incarnation, int]] = defaultdict(dict)
        self.claimed: defaultdict[tuple[bytes, int], dict[Incarnation, int]] = defaultdict(dict)
        self._tree = tree
        self._leaders = leaders
        self._leader_logs = leader_logs
        self._committed = committed
        self._min_voters = min_voters
        self._rules = rules

    def say(self, process: Process, reply: AppendReply) -> None:
        """Judge an ACK that leaves ``process`` now.

        Raises:
            InvariantError: the ACK is not true, or would not be true after a power cut.
        """
        acks = self.sent[reply.cluster, reply.term]
        acks[process.inc] = max(reply.match, acks.get(process.inc, 0))
        if not self._rules or self._has_left(process, reply):
            return
        promise = process.view.promises.get(id(reply)) or self._promise(process, reply)
        if process.disk is not None:
            self._check_durable(process, process.disk, promise)

    def claim(self, process: Process, cluster: bytes, verified: Cursor) -> None:
        """Judge what ``process`` reports as verified, in an answer to a vote request or to itself (rule K).

        Raises:
            InvariantError: its log differs there from that of that term's leader.
        """
        nodes = process.view.nodes
        if not verified.index or cluster != self._tree.cluster_of(nodes[-1]):
            return
        place = (self._tree.genesis[nodes[-1]], verified.term)
        if self._leaders.get(place) == process.inc:
            return  # its own log, with what it wrote in the step in which it stepped down
        claims = self.claimed[cluster, verified.term]
        claims[process.inc] = max(verified.index, claims.get(process.inc, 0))
        log = self._leader_logs.get(place, [])
        # A newer term's leader may have had it cut later in this step, as with an ACK.
        held = any(
            _holds(log, verified.index, before[verified.index]) for before in _logs_of(process, verified)
        )
        if self._rules and not held:
            raise InvariantError(
                "truthful-claim", f"{process} claims {verified}, where it differs from that term's leader"
            )

    def holders(self, nodes: list[int], index: int) -> set[Incarnation]:
        """Return who holds the entry at ``index`` of a log by what was really sent in the entry's own term.

        Its leader is one, because it wrote the entry; without a leader of that term there are none.
        """
        entry = self._tree.entries[nodes[index]]
        assert entry is not None
        place = (self._tree.genesis[nodes[-1]], entry.term)
        if not _holds(self._leader_logs.get(place, []), index, nodes[index]):
            return set()
        key = (self._tree.cluster_of(nodes[-1]), entry.term)
        known = (*self.sent[key].items(), *self.claimed[key].items())
        return {self._leaders[place], *(inc for inc, match in known if match >= index)}

    def settled(self, process: Process) -> int:
        """Return up to where the log of ``process`` is committed, announced or not.

        Rule K: an entry is committed when those that verified it in its own term, as they really sent, and
        that term's leader are a quorum of every active configuration. With trust_disk only the leader counts.
        """
        view = process.view
        committed = self._committed[self._tree.genesis[view.nodes[-1]]]
        settled = min(len(committed), len(view.nodes)) - 1
        while view.nodes[settled] != committed[settled]:
            settled -= 1
        last = settled if process.disk is not None else len(view.nodes) - 1
        index = last
        while index > settled:
            if self.is_held(self.holders(view.nodes, index), view.active(settled, last)):
                # A configuration may be retired, so more entries may be committed.
                settled, index = index, last
            else:
                index -= 1
        return settled

    def is_held(self, holders: set[Incarnation], active: list[Config]) -> bool:
        """Whether ``holders`` are a quorum of every active configuration, and two of them if it takes two."""
        enough = min(2, self._min_voters, *(len(config.voters) for config in active))
        return len(holders) >= enough and all(is_quorum(config, holders) for config in active)

    def hold(self, process: Process) -> None:
        """Judge an ACK that ``process`` promises in this step and will send when its disk has the entries.

        Raises:
            InvariantError: the ACK is not true.
        """
        view = process.view
        known, view.promises = view.promises, {}
        for _, send in process.member.tenure.held:
            reply = send.message
            if type(reply) is AppendReply and reply.verdict is ACK and not self._has_left(process, reply):
                view.promises[id(reply)] = known.get(id(reply)) or self._promise(process, reply)

    def _has_left(self, process: Process, reply: AppendReply) -> bool:
        """Whether this is the last ACK in a cluster that ``process`` left in this step."""
        return reply.cluster != self._tree.cluster_of(process.view.nodes[-1])

    def _promise(self, process: Process, reply: AppendReply) -> Promise:
        """Return what an ACK promises: the log equals that of the term's leader up to ``match``.

        This holds for the log in this step. If a newer term's leader had it cut after that, the log before
        the cut counts.
        """
        view = process.view
        term, match = reply.term, reply.match
        log = self._leader_logs.get((self._tree.genesis[view.nodes[-1]], term))
        if log is None or match >= len(log):
            raise InvariantError("truthful-ack", f"{process} ACKs {match} in term {term}")
        node = log[match]
        logs = [view.nodes, *view.former] if term < process.member.term else [view.nodes]
        if not any(_holds(nodes, match, node) for nodes in logs):
            raise InvariantError(
                "truthful-ack", f"{process} ACKs {match}, where it differs from the leader of {term}"
            )
        written = process.disk.written if process.disk is not None else 0
        return Promise(reply, node, written)

    def _check_durable(self, process: Process, disk: Disk, promise: Promise) -> None:
        """Require that the disk has what was promised, or has since cut it for a newer term's leader."""
        view = process.view
        reply = promise.reply
        term, match = reply.term, reply.match
        if term >= process.member.term and not _holds(view.nodes, match, promise.node):
            raise InvariantError("truthful-ack", f"{process} ACKs {match}, which it has cut in term {term}")
        entry = self._tree.entries[promise.node]
        if entry is None:
            return  # it ACKs the empty log
        position = Position(entry.term, entry.index, entry.chain)
        if not disk.holds_entry(position) and disk.cut_by(position) <= promise.written:
            raise InvariantError("durable-promise", f"{process} ACKs {match} before its disk has it")


def _logs_of(process: Process, verified: Cursor) -> list[list[int]]:
    """Return the logs that ``process`` had in this step, as far as they reach ``verified``."""
    logs = [process.view.nodes, *process.view.former]
    return [nodes for nodes in logs if verified.index < len(nodes)]


def _holds(nodes: list[int], index: int, node: int) -> bool:
    return index < len(nodes) and nodes[index] == node
