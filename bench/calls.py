"""How many calls a verdict, a bond and a command take, between how many files: the way of a reader.
JSON on stdout.

    python -m bench.calls [--only quote --only bond --only command] [--list]

Counted are calls of this project's functions by this project's functions, the files that they are in, and
the turns: calls into another file than the caller's. A generator counts each time that it goes on, and a
comprehension is part of its function. What stands in for the processor (``enclave/mock``) is left out. The
counts hold on any machine; only those of a bond change a little, with the order in which packets arrive.
``--list`` prints each file with its calls too, and each turn with how often it is taken.
"""

import argparse
import asyncio
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, Final

from bench import layers
from bench.attestation import forget
from enclave.identity import Identity
from enclave.issuer import TdxTicketIssuer
from enclave.mock.authority import MockAuthority
from node.api.app import create_app
from node.api.limits import ApiLimits
from node.machines.kv import KeyValue
from node.raft.events import Execute

PROJECT: Final = str(Path.cwd())
PACKAGES: Final = tuple(f"{PROJECT}/{name}/" for name in ("attestation", "enclave", "node"))
MOCK: Final = f"{PROJECT}/enclave/mock/"  # stands in for the processor
IN_THEIR_FUNCTION: Final = {"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"}

# The tests' stand-ins, which have no types.
tickets: Any = import_module("tests.support.tickets")
bonds: Any = import_module("tests.support.bonds")
drivers: Any = import_module("tests.node.group.test_driver")


@dataclass
class Counts:
    """``turns``: from which file into which other."""

    calls: Counter[str] = field(default_factory=Counter)
    turns: Counter[tuple[str, str]] = field(default_factory=Counter)

    def report(self, *, listed: bool) -> dict[str, object]:
        out: dict[str, object] = {
            "calls": self.calls.total(),
            "files": len(self.calls),
            "turns": self.turns.total(),
        }
        if listed:
            out["by_file"] = dict(self.calls.most_common())
            out["by_turn"] = {f"{one} -> {other}": n for (one, other), n in self.turns.most_common()}
        return out

    def called(self, frame: FrameType, event: str, _argument: object) -> None:
        if event != "call" or not _is_ours(frame) or frame.f_code.co_name in IN_THEIR_FUNCTION:
            return
        caller = frame.f_back
        while caller is not None and caller.f_code.co_name in IN_THEIR_FUNCTION:
            caller = caller.f_back
        if caller is None or not _is_ours(caller):
            return
        here, there = (each.f_code.co_filename.removeprefix(f"{PROJECT}/") for each in (caller, frame))
        self.calls[there] += 1
        if here != there:
            self.turns[here, there] += 1


def _is_ours(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return name.startswith(PACKAGES) and not name.startswith(MOCK)


@contextmanager
def counting() -> Iterator[Counts]:
    """Count in this thread, and in those that start meanwhile."""
    counts = Counts()
    threading.setprofile(counts.called)
    sys.setprofile(counts.called)
    try:
        yield counts
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


# ---- what is counted ------------------------------------------------------------
def quote() -> dict[str, Counts]:
    """Count a verdict with nothing kept, and one with collateral and certificates verified before."""
    bench = tickets.Bench()
    ticket, validator, peer = bench.ticket(), bench.validator(), bench.peer()
    forget()
    with counting() as cold:
        validator.validate(ticket, peer, tickets.NOW)
    with counting() as warm:
        validator.validate(ticket, peer, tickets.NOW)
    return {"quote-cold": cold, "quote-warm": warm}


def bond() -> dict[str, Counts]:
    """Count both ends of a bond, from two nodes that start until each has admitted the other."""

    async def form() -> Counts:
        first, second = (bonds.Node(name, **_trust(name, authority)) for name in ("a", "b"))
        await first.start()
        with counting() as counts:
            await second.start(first.address)
            await first.until_bonded(second)
            await second.until_bonded(first)
        for node in (second, first):
            await node.endpoint.close()
        return counts

    authority = MockAuthority.create(datetime.now(UTC))
    forget()
    return {"bond": asyncio.run(form())}


def _trust(name: str, authority: MockAuthority) -> dict[str, Any]:
    """Return what makes a node of a mock TD: its key, its tickets, and its judgement of others."""
    now = datetime.now(UTC)
    bench = tickets.Bench(authority=authority)
    identity = Identity.generate(name, now)
    issuer = TdxTicketIssuer(
        attester=authority.create_td(mrtd=tickets.FIRMWARE, rtmrs=tickets.REGISTERS),
        identity=identity,
        network_id=bonds.NETWORK,
        endorsements_source=authority,
        started_at=now,
        lifetime=timedelta(minutes=10),
    )
    return {"identity": identity, "issuers": (issuer,), "validators": (bench.validator(),)}


def command() -> dict[str, Counts]:
    """Count a put from the parsed request to its answer, on a node that is a group of its own.

    The HTTP server in front of the API and the bonds are left out, and so is what passes the commands on
    between the API and the driver of the member (``node.service``, ``node.group.group``).
    """

    async def form() -> Counts:
        driver = drivers.start(drivers.Bonds(), machine=KeyValue())
        await drivers.lead(driver)

        class Service(layers.Node):
            async def execute(self, commands: Any, **how: Any) -> Any:
                request = Execute(driver.new_token(), commands, how["key"], how["feed"], how["credential"])
                return await driver.request(request, timeout_s=how["timeout_s"])

        ask = layers.asking(create_app(Service(), limits=ApiLimits()), "/v1/commands", layers.PUT)
        await ask()  # it opens the member's session
        found = []
        for _ in range(5):
            with counting() as counts:
                await ask()
            found.append(counts)
        driver.close("done")
        return min(found, key=lambda counts: counts.calls.total())  # a tick may come between

    return {"command": asyncio.run(form())}


PARTS: Final[dict[str, Callable[[], dict[str, Counts]]]] = {"quote": quote, "bond": bond, "command": command}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="may be repeated")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    counted = {name: counts for part in args.only or PARTS for name, counts in PARTS[part]().items()}
    print(json.dumps({name: each.report(listed=args.list) for name, each in counted.items()}, indent=2))


if __name__ == "__main__":
    main()
