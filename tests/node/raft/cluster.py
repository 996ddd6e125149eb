"""Several members in one process with hand-driven time: messages are delivered in the order they were sent."""

import hashlib
from collections import deque
from random import Random

from node.features import HIGHEST, LOWEST, Build, Levels, Span
from node.machines.base import ApplyContext, CommandError, StateMachine
from node.machines.system import EmptySystem
from node.peers import BondLoss, Incarnation, Preference
from node.raft.budget import UNLIMITED
from node.raft.events import (
    BondDown,
    BondUp,
    Execute,
    Persisted,
    Query,
    Received,
    SnapshotStored,
    Tick,
    Violation,
)
from node.raft.log import MemoryLog
from node.raft.member import Member
from node.raft.types import Bootstrap, Consistency, Founding, Role, Settings

BUILD = Build("", Span(LOWEST, HIGHEST), "test/register", Span(1, 1))  # of a member of ``RaftCluster``
LEVELS = Levels(HIGHEST, "test/register", 1)  # of the group of such members
GROUP = hashlib.sha256(b"group").digest()
WALL_MS = 1_790_000_000_000


class Register(StateMachine):
    """A counter that adds, and refuses on request."""

    def __init__(self) -> None:
        self.value = 0
        self.history = []

    @property
    def signature(self):
        return "test/register/v1"

    def apply(self, command, context: ApplyContext):
        if command == "refuse":
            self.value += 1000  # must be rolled back
            raise CommandError("refused", "as asked")
        if command == "crash":
            self.value += 1000
            raise ZeroDivisionError
        self.value += command
        self.history.append(command)
        return self.value

    def query(self, query):
        if query == "crash":
            raise ZeroDivisionError
        return self.value

    def snapshot(self):
        return [self.value, list(self.history)]

    def restore(self, snapshot):
        self.value, self.history = snapshot[0], list(snapshot[1])


class FakeCredentials:
    """Signatures that anyone could forge, but that are right only for one incarnation and one text."""

    def __init__(self, me):
        self.me = me

    def sign(self, data):
        return hashlib.sha256(self.me.id + data).digest()

    def verify(self, incarnation, data, signature):
        return hashlib.sha256(incarnation.id + data).digest() == signature


def inc(name, life=0):
    return Incarnation(name, hashlib.sha256(f"{name}/{life}".encode()).digest())


class RaftCluster:
    """Members, the bonds between them, and what they sent and did."""

    def __init__(self, settings=None, seed=1, member=Member, system=EmptySystem, **overrides):
        # A third voter is given up as fast as others: no test here is about that, but those that ask for more.
        self.settings = settings or Settings(**{"demote_to_two_after_ms": 0} | overrides)
        self.random = Random(seed)
        self.member_class = member
        self.system = system
        self.now = 1000
        self.nodes = {}
        self.bonds = set()
        self.wire = deque()  # (sender, to, message)
        self.outcomes = {}  # (name, token) -> outcome
        self.notices = {}
        self.unsynced = {}
        self.unstored = {}  # name -> the snapshots that its member wants on its disk
        self.sync = True
        self.due = {}
        self.tokens = 0
        self.drop = lambda sender, to, message: False
        self.wall_skew_ms = {}  # name -> by how much its host's wall clock is wrong

    def add(
        self,
        name,
        bootstrap=Bootstrap.EXPECT,
        expect=3,
        preference=Preference.NORMAL,
        life=0,
        delay=3000,
        recovered=None,
        bond=True,
        features=None,
        machine=None,
        budget=UNLIMITED,
    ):
        me = inc(name, life)
        node = self.member_class(
            me=me,
            group_id=GROUP,
            settings=self.settings,
            founding=Founding(bootstrap=bootstrap, expect=expect, bootstrap_delay_ms=delay),
            preference=preference,
            machine=machine or Register(),
            system=self.system,
            log=MemoryLog(),
            credentials=FakeCredentials(me),
            randrange=self.random.randrange,
            now_ms=self.now,
            recovered=recovered,
            features=features,
            budget=budget,
        )
        self.nodes[name] = node
        self.notices[name] = []
        self.unsynced[name] = []
        self.unstored[name] = []
        self.step(name, Tick())
        if bond:
            for other in list(self.nodes):
                if other != name:
                    self.bond(name, other)
        return node

    def wall(self, name):
        return WALL_MS + self.now + self.wall_skew_ms.get(name, 0)

    # ---- one step -----------------------------------------------------------
    def step(self, name, *events):
        node = self.nodes[name]
        effects = node.step_many(self.now, events, wall_ms=self.wall(name))
        for send in effects.sends:
            for to in send.to:
                self.wire.append((name, to.name, send.message))
        for token, outcome in effects.completions:
            assert (name, token) not in self.outcomes, "completed twice"
            self.outcomes[name, token] = outcome
        self.notices[name] += effects.notices
        self.due[name] = effects.next_tick_ms
        if effects.persist:
            self.unsynced[name].append((effects.serial, effects.persist))
            if self.sync:
                self.step(name, Persisted(effects.serial))
        for snapshot in effects.store:
            self.stored(name, snapshot)
        return effects

    def stored(self, name, snapshot):
        self.unstored[name].append(snapshot)
        if self.sync:
            self.step(name, SnapshotStored(snapshot.evidence.anchor))

    def deliver(self, limit=100_000):
        while self.wire and limit:
            limit -= 1
            sender, to, message = self.wire.popleft()
            if frozenset((sender, to)) not in self.bonds or to not in self.nodes:
                continue
            if self.drop(sender, to, message):
                continue
            self.step(to, Received(self.nodes[sender].me, message))
        assert limit, "messages without end"

    def run(self, ms):
        """Let ``ms`` pass, ticking every member when it asks to be."""
        end = self.now + ms
        self.deliver()
        while True:
            due = min((at for name, at in self.due.items() if name in self.nodes), default=end)
            if due > end:
                break
            self.now = max(due, self.now + (0 if due > self.now else 1))
            if self.now > end:
                break
            for name in list(self.nodes):
                if self.due[name] <= self.now:
                    self.step(name, Tick())
            self.deliver()
        self.now = end

    def run_until(self, condition, ms=20_000, stride=10):
        end = self.now + ms
        while not condition():
            assert self.now < end, "it never happened"
            self.run(stride)

    # ---- bonds --------------------------------------------------------------
    def bond(self, a, b):
        if frozenset((a, b)) in self.bonds:
            return
        self.bonds.add(frozenset((a, b)))
        self.step(a, BondUp(self.nodes[b].me, self.nodes[b].preference, self.nodes[b].build))
        self.step(b, BondUp(self.nodes[a].me, self.nodes[a].preference, self.nodes[a].build))

    def unbond(self, a, b, loss=BondLoss.LOST):
        if frozenset((a, b)) not in self.bonds:
            return
        self.bonds.discard(frozenset((a, b)))
        self.wire = deque(w for w in self.wire if {w[0], w[1]} != {a, b})
        for me, peer in ((a, b), (b, a)):
            if me in self.nodes:
                self.step(me, BondDown(self.nodes[peer].me, loss))

    def isolate(self, name, loss=BondLoss.LOST):
        for other in list(self.nodes):
            if other != name:
                self.unbond(name, other, loss)

    def heal(self):
        for a in self.nodes:
            for b in self.nodes:
                if a < b:
                    self.bond(a, b)

    def kill(self, name):
        """The process dies: its bonds break, it never answers again."""
        dead = self.nodes.pop(name)
        self.wire = deque(w for w in self.wire if name not in w[:2])
        for other in list(self.nodes):
            if frozenset((name, other)) in self.bonds:
                self.bonds.discard(frozenset((name, other)))
                self.step(other, BondDown(dead.me, BondLoss.LOST))
        return dead

    # ---- asking -------------------------------------------------------------
    def execute(self, name, *commands, key=None, feed=False, **whose):
        self.tokens += 1
        self.step(name, Execute(self.tokens, commands, key, feed, **whose))
        return name, self.tokens

    def query(self, name, consistency=Consistency.STRONG, **kwargs):
        self.tokens += 1
        self.step(name, Query(self.tokens, "value", consistency, **kwargs))
        return name, self.tokens

    def outcome(self, ticket, ms=10_000):
        self.run_until(lambda: ticket in self.outcomes, ms)
        return self.outcomes[ticket]

    def leader(self):
        leaders = [n for n, node in self.nodes.items() if node.role is Role.LEADER and node.online]
        return max(leaders, key=lambda n: self.nodes[n].term, default=None)

    def elect(self, ms=20_000):
        self.run_until(lambda: self.leader() is not None, ms)
        return self.leader()

    def followers(self):
        return sorted(set(self.nodes) - {self.leader()})

    def values(self):
        return {name: node.replica.machine.value for name, node in self.nodes.items()}

    def violations(self):
        return [n for notices in self.notices.values() for n in notices if isinstance(n, Violation)]


def three(**overrides):
    """Three founders with a leader that has committed its no-op."""
    cluster = RaftCluster(**overrides)
    for name in "abc":
        cluster.add(name)
    cluster.elect()
    cluster.run(300)
    return cluster
