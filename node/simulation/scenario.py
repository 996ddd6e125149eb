"""Directed schedules as text, in the manner of etcd's data-driven tests.

A file is a list of blocks: commands, a line ``----``, then what they print. ``#`` begins a comment.
Every oracle judges every event, so a scenario cannot pass by its text alone.

    cluster a b c min_voters=1     start and let them found the group (settings by their names; also
                                   founders= expect= bootstrap= observer= reluctant= cut= fsync= rivals=)
    run 500ms                      let time pass
    wait leader | leader a | leader but a | voters a b | settled [within 5s]
    jump a -5s                     a's wall clock jumps
    cut a | b c      cut a -> b    lose everything between them (both ways; one way)
    mend a | b c                   undo such a cut
    heal                           undo every cut and hold
    hold a b Append,Chunk          keep what a sends to b (of these types), until
    release a b     discard a b    release a b 1: only the oldest, and go on keeping the rest
    flap a b        expire a       break a bond; end all bonds of a, by its ticket
    renew a
    crash a   boot a   clone a   tear a 2   stall a   resume a
    fsync a 3s                     from its next write on, a's disk takes this long (trust_disk)
    hasten a 3s                    a's monotonic clock leaps: its timers fire
    put w1 a x=1 [y=2]  cas w2 a x=1->2  feed w3 a x=3   get r1 a x [weak]   ask node a; w1 names the call
                                   (a place may be ``leader``: the leader at that time)
    retry w1 b                     the client asks again elsewhere, with the same idempotency key
    outcome w1 [r1 ...]            the answer that the client received
    transfer [b]                   the leader hands over
    recover a                      a, the survivor, founds a new generation (with recovery=true, and jump=)
    remove b                       an operator removes b; what the leader answers to that is printed
    status   leader   leads a      roles and voters; how many lead; whether a does
    log a   terms a   states       a's log, its terms; whose state equals whose
    age a 1s                       whether a's state is younger than that
    durable a                      how much of a's log a knows to be on its disk
    disk a                         where a's log on the disk begins, and the snapshots there (trust_disk)
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from node.peers import BondLoss, Preference
from node.raft.member import Member
from node.raft.types import (
    Answer,
    Applied,
    Bootstrap,
    NotExecuted,
    Ok,
    Outcome,
    Role,
)
from node.simulation.clients import Ask, Habits, SimulatedCall, SimulatedClients
from node.simulation.cluster import Shape, SimulatedCluster
from node.simulation.faults import CALM, LEADER, Weather
from node.simulation.operated import Successor
from node.simulation.oracles import Oracles
from node.simulation.process import Process
from node.simulation.scenario_file import Block, ScenarioError, settings_of, span_us
from node.simulation.scheduler import SECOND_US
from node.simulation.verdict import judge_run
from node.simulation.workload import REGISTERS

_WITHIN_US: Final = 30 * SECOND_US


class Scenario:
    """Runs scenarios. ``member`` is the class under test."""

    def __init__(self, *, member: type[Member] = Member, rules: bool = True, traced: bool = False) -> None:
        self._member = member
        self._rules = rules
        self._traced = traced
        self._calls: dict[str, SimulatedCall] = {}
        self._cluster: SimulatedCluster | None = None
        self._clients: SimulatedClients | None = None

    def play(self, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
        """Run all blocks and judge the run; return them with their actual output.

        Raises:
            ScenarioError: a command is malformed, or its condition does not come true in time.
            InvariantError: an oracle was contradicted.
        """
        played = []
        for block in blocks:
            printed: list[str] = []
            for command in block.commands:
                printed += self.do(command)
            played.append(replace(block, expected=tuple(printed)))
        if self._clients is not None:
            judge_run(self.cluster.oracles, self._clients.calls, REGISTERS)
        return tuple(played)

    @property
    def cluster(self) -> SimulatedCluster:
        if self._cluster is None:
            raise ScenarioError("a scenario begins with: cluster NAME...")
        return self._cluster

    @property
    def clients(self) -> SimulatedClients:
        if self._clients is None:
            raise ScenarioError("a scenario begins with: cluster NAME...")
        return self._clients

    def do(self, line: str) -> list[str]:
        """Carry out one command; return what it prints."""
        verb, *words = line.split()
        command: Callable[..., list[str] | None] | None = getattr(self, f"_do_{verb}", None)
        if command is None:
            raise ScenarioError(f"no such command: {line}")
        self._note(line)
        try:
            return command(*words) or []
        except (TypeError, KeyError, ValueError) as exc:
            raise ScenarioError(f"{line}: {exc}") from exc

    def _note(self, line: str) -> None:
        if self._cluster is not None:
            self._cluster.trace.note("scenario", line)

    def _at(self, place: str) -> Process:
        if place == LEADER:
            leader = self.cluster.leader()
            if leader is None:
                raise ScenarioError("nobody leads")
            return leader
        process = self.cluster.process_at(place)
        if process is None:
            raise ScenarioError(f"no process runs at {place}")
        return process

    # ---- the group ----------------------------------------------------------------
    def _do_cluster(self, *words: str) -> None:
        names = tuple(word for word in words if "=" not in word)
        options = dict(word.split("=") for word in words if "=" in word)
        founders = tuple(options.pop("founders", ",".join(names)).split(","))
        bootstrap = Bootstrap(options.pop("bootstrap", "expect"))
        expect = int(options.pop("expect", "0"))
        apart = [name for name in options.pop("cut", "").split(",") if name]
        rivals = options.pop("rivals", "false") == "true"
        recovers = options.pop("recovery", "false") == "true"
        jump = int(options.pop("jump", "0"))
        same_identity = options.pop("same_identity", "false") == "true"
        weather = replace(CALM, fsync_us=span_us(options.pop("fsync", "2ms")))
        seed = options.pop("seed", "scenario")
        preferences = {
            name: preference
            for preference in Preference
            for name in options.pop(preference.value, "").split(",")
            if name
        }
        shape = Shape(
            names=names,
            founders=founders,
            bootstrap=bootstrap,
            expect=expect,
            preferences=preferences,
            settings=settings_of(options),
            machine=REGISTERS.machine,
            member=type("Survivor", (Successor, self._member), {}) if recovers else self._member,
            recovers=recovers,
            jump=jump,
            same_identity=same_identity,
        )
        self._start(shape, weather, apart=apart, rivals=rivals, seed=seed)

    def _start(self, shape: Shape, weather: Weather, *, apart: list[str], rivals: bool, seed: str) -> None:
        oracles = Oracles(
            min_voters=shape.settings.min_voters,
            session_ttl_ms=shape.settings.session_ttl_ms,
            rules=self._rules,
            rivals=rivals,
            discards=shape.settings.on_rival == "discard-shorter",
        )
        cluster = self._cluster = SimulatedCluster(
            shape, seed=seed, oracles=oracles, weather=weather, traced=self._traced
        )
        self._clients = SimulatedClients(
            scheduler=cluster.scheduler,
            rng=cluster.rng,
            callers=cluster.rng,
            workload=REGISTERS,
            habits=Habits(attempts_max=1, patience_us=600 * SECOND_US),
            alive=cluster.alive,
            judge=oracles.judge,
            floors=oracles.floors,
            trace=cluster.trace,
        )
        if apart:
            rest = [name for name in shape.names if name not in apart]
            self._do_cut(*apart, "|", *rest)
        cluster.start()

    def _do_run(self, span: str) -> None:
        deadline_us = self.cluster.scheduler.now_us + span_us(span)
        self.cluster.run_until(lambda: False, deadline_us=deadline_us)

    def _do_wait(self, what: str, *words: str) -> None:
        within_us = _WITHIN_US
        if "within" in words:
            cut = words.index("within")
            within_us, words = span_us(words[cut + 1]), words[:cut]
        cluster = self.cluster
        done: Callable[[], bool]
        match what:
            case "leader":
                done = lambda: self._leads(words)  # noqa: E731 - one of three
            case "voters":
                wanted = {self._at(word).inc for word in words}
                done = lambda: self._voters() == wanted  # noqa: E731 - one of three
            case "settled":
                done = self._settled
            case _:
                raise ScenarioError(f"wait for what: {what}?")
        deadline_us = cluster.scheduler.now_us + within_us
        if not cluster.run_until(done, deadline_us=deadline_us):
            status = "\n".join(self._do_status())
            raise ScenarioError(f"no {what} {' '.join(words)} in time\n{status}")

    def _leads(self, words: tuple[str, ...]) -> bool:
        """Whether a leader's own entry is committed: anywhere, at ``(place,)``, or ``("but", place)``."""
        leader = self.cluster.leader()
        if leader is None or (words and (leader.place == words[-1]) == (words[0] == "but")):
            return False
        view = leader.view
        entry = self.cluster.oracles.tree.entries[view.nodes[view.commit]]
        return entry is not None and entry.term == view.term

    def _voters(self) -> set[Any]:
        leader = self.cluster.leader()
        if leader is None or not leader.view.configs:
            return set()
        index, config = leader.view.configs[-1]
        return set(config.voters) if index <= leader.view.commit else set()

    def _settled(self) -> bool:
        leader = self.cluster.leader()
        if leader is None or leader.view.commit + 1 != len(leader.view.nodes):
            return False
        return all(
            p.view.nodes == leader.view.nodes and p.view.commit == leader.view.commit
            for p in self.cluster.alive()
        )

    # ---- the network ----------------------------------------------------------------
    def _do_cut(self, *words: str) -> None:
        text = " ".join(words)
        one_way = "->" in text
        near, far = (side.split() for side in text.split("->" if one_way else "|"))
        pairs = [(a, b) for a in near for b in far]
        if not one_way:
            pairs += [(b, a) for a, b in pairs]
        self.cluster.network.block(pairs)

    def _do_mend(self, *words: str) -> None:
        near, far = (side.split() for side in " ".join(words).split("|"))
        pairs = [(a, b) for a in near for b in far]
        self.cluster.network.unblock(pairs + [(b, a) for a, b in pairs])

    def _do_heal(self) -> None:
        self.cluster.network.heal()

    def _do_hold(self, sender: str, receiver: str, types: str = "") -> None:
        only = frozenset(types.split(",")) if types else frozenset()
        self.cluster.network.hold(self._at(sender), self._at(receiver), only)

    def _do_release(self, sender: str, receiver: str, count: str = "") -> None:
        if count:
            self.cluster.network.let_through(self._at(sender), self._at(receiver), int(count))
        else:
            self.cluster.network.release(self._at(sender), self._at(receiver))

    def _do_discard(self, sender: str, receiver: str) -> None:
        self.cluster.network.release(self._at(sender), self._at(receiver), discard=True)

    def _do_flap(self, first: str, second: str) -> None:
        self.cluster.network.flap(self._at(first), self._at(second), BondLoss.LOST)

    def _do_expire(self, place: str) -> None:
        process = self._at(place)
        process.has_ticket = False
        for link in self.cluster.network.links(process):
            self.cluster.network.flap(process, link.receiver, BondLoss.EXPIRED)

    def _do_renew(self, place: str) -> None:
        self._at(place).has_ticket = True
        self.cluster.network.reconnect_all()

    # ---- processes --------------------------------------------------------------------
    def _do_crash(self, place: str) -> None:
        self.cluster.kill(self._at(place), BondLoss.LOST)

    def _do_boot(self, place: str) -> None:
        self.cluster.boot(place)

    def _do_fsync(self, place: str, span: str) -> None:
        disk = self._at(place).disk
        if disk is None:
            raise ScenarioError(f"{place} has no disk")
        disk.fsync_us = span_us(span)

    def _do_clone(self, place: str) -> None:
        self.cluster.clone(place)

    def _do_tear(self, place: str, sends: str) -> None:
        self._at(place).tear_after = int(sends)

    def _do_stall(self, place: str) -> None:
        process = self._at(place)
        process.stall()
        self.cluster.network.starve(process)

    def _do_resume(self, place: str) -> None:
        self._at(place).resume()

    def _do_jump(self, place: str, span: str) -> None:
        sign = -1 if span.startswith("-") else 1
        ms = sign * span_us(span.lstrip("-")) // 1_000
        self._at(place).clock.wall_skew_ms += ms

    def _do_hasten(self, place: str, span: str) -> None:
        process = self._at(place)
        process.clock.hasten(span_us(span) // 1_000)
        process.start()

    # ---- clients ------------------------------------------------------------------------
    def _do_put(self, name: str, place: str, *pairs: str) -> None:
        commands = [dict(zip(("key", "value"), pair.split("="), strict=True)) for pair in pairs]
        self._ask(name, place, ask=Ask.WRITE, commands=tuple(commands))

    def _do_feed(self, name: str, place: str, pair: str) -> None:
        command = dict(zip(("key", "value"), pair.split("="), strict=True))
        self._ask(name, place, ask=Ask.FEED, commands=(command,))

    def _do_cas(self, name: str, place: str, text: str) -> None:
        key, expect, value = re.split("=|->", text)
        command = {"key": key, "expect": expect, "value": value}
        self._ask(name, place, ask=Ask.WRITE, commands=(command,))

    def _do_get(self, name: str, place: str, key: str, level: str = "strong") -> None:
        ask = Ask.STRONG if level == "strong" else Ask.WEAK
        self._ask(name, place, ask=ask, query={"key": key})

    def _ask(self, name: str, place: str, **fields: Any) -> None:
        call = SimulatedCall(number=len(self._calls) + 1, client=0, **fields)
        self._calls[name] = call
        self.clients.submit(call, at=self._at(place))

    def _do_retry(self, name: str, place: str) -> None:
        self.clients.retry(self._calls[name], self._at(place))

    def _do_outcome(self, *names: str) -> list[str]:
        return [f"{name}: {_told(self._calls[name])}" for name in names]

    def _do_transfer(self, place: str | None = None) -> None:
        self.cluster.transfer(self._at(place) if place is not None else None)

    def _do_remove(self, place: str) -> list[str]:
        return self._operated(place, "removed", self.cluster.remove)

    def _do_recover(self, place: str) -> list[str]:
        return self._operated(place, "in a new generation", self.cluster.recover)

    def _operated(
        self, place: str, done: str, ask: Callable[[str, Callable[[Outcome | None], None]], None]
    ) -> list[str]:
        answers: list[Outcome | None] = []
        ask(place, answers.append)
        deadline_us = self.cluster.scheduler.now_us + _WITHIN_US
        self.cluster.run_until(lambda: bool(answers), deadline_us=deadline_us)
        match answers:
            case [Ok()]:
                return [f"{place} is {done}"]
            case [NotExecuted(reason)]:
                return [f"{place} is not {done} ({reason})"]
            case _:
                return [f"it is not known whether {place} is {done}"]

    # ---- what can be seen -----------------------------------------------------------------
    def _do_status(self) -> list[str]:
        lines = []
        for process in self.cluster.alive():
            view = process.view
            by_inc = {p.inc: p.place for p in self.cluster.alive()}
            config = view.configs[-1][1] if view.configs else None
            voters = [by_inc.get(v, f"({v.name})") for v in config.voters] if config else []
            tie = f" tie {by_inc.get(config.tie, '?')}" if config and config.tie else ""
            role = process.member.status().role.value
            lines.append(f"{process.place} {role} voters {' '.join(voters) or '-'}{tie}")
        return lines

    def _do_log(self, place: str) -> list[str]:
        view = self._at(place).view
        tree = self.cluster.oracles.tree
        lines = []
        for index, node in enumerate(view.nodes[1:], start=1):
            entry = tree.entries[node]
            assert entry is not None
            if not tree.is_entry(node, index):
                continue  # a generation's index jumped over it
            mark = "committed" if index <= view.commit else "open"
            lines.append(f"{entry.term}:{index} {entry.kind.name.lower()} {mark}")
        return lines

    def _do_age(self, place: str, span: str) -> list[str]:
        age_ms = self._at(place).member.covered_age_ms(self._at(place).clock.now_ms())
        if age_ms is None:
            return [f"{place} never covered what a leader had committed"]
        verb = "covered" if age_ms * 1_000 <= span_us(span) else "did not cover"
        return [f"{place} {verb} what a leader had committed within {span}"]

    def _do_durable(self, place: str) -> list[str]:
        member = self._at(place).member
        durable = member.tenure.durable_index
        return [f"{place} knows {durable} of {member.log.last().index} entries to be on its disk"]

    def _do_disk(self, place: str) -> list[str]:
        disk = self._at(place).disk
        assert disk is not None
        found = [
            f"{'whole' if file.is_whole else 'torn'} at {anchor.index}"
            for anchor, file in sorted(disk.snapshots.items())
        ]
        begin = disk.base_index
        log = f"behind {begin}" if begin else "with the genesis"
        return [f"{place}'s log on the disk begins {log}; snapshots: {', '.join(found) or 'none'}"]

    def _do_terms(self, place: str) -> list[str]:
        status = self._at(place).member.status()
        tree = self.cluster.oracles.tree
        entries = (tree.entries[node] for node in self._at(place).view.nodes[1:])
        wrote = sorted({entry.term for entry in entries if entry is not None})
        return [f"{place} is in term {status.term}, its entries are of {wrote}"]

    def _do_states(self) -> list[str]:
        groups: dict[str, list[str]] = {}
        for process in self.cluster.alive():
            state = ", ".join(f"{k}={v}" for k, v in process.machine.snapshot().items())
            groups.setdefault(state, []).append(process.place)
        return [f"{' '.join(places)}: {state or 'empty'}" for state, places in groups.items()]

    def _do_leader(self) -> list[str]:
        leaders = sum(p.view.role is Role.LEADER for p in self.cluster.alive())
        return [f"leaders: {leaders}"]

    def _do_leads(self, place: str) -> list[str]:
        leads = self._at(place).view.role is Role.LEADER
        return [f"{place} {'leads' if leads else 'does not lead'}"]


def _told(call: SimulatedCall) -> str:
    match call.outcome:
        case Ok(results=()):
            return "accepted"
        case Ok():
            shown = [
                f"was {r.value}" if isinstance(r, Applied) else f"refused ({r.code})"
                for r in call.outcome.results
            ]
            return "ok, " + ", ".join(shown)
        case Answer():
            return f"is {call.outcome.value}"
        case _:
            reason = f" ({call.refusal.reason})" if isinstance(call.refusal, NotExecuted) else ""
            return call.fate.value + reason
