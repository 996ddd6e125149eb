"""The project's PCCS with scripted faults, and a collateral client in front of it with time in our hands."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import httpx

from attestation.collateral.client.assembly import Collateral
from attestation.collateral.client.collateral_client import CollateralClient
from attestation.collateral.client.disk import DiskCache
from attestation.collateral.client.fetcher import Fetcher
from attestation.collateral.client.requests import PckCaKind, Platform, Source, TcbUpdate, UpdateMode
from attestation.collateral.endorsements import Endorsements
from attestation.collateral.freshness import FreshnessState
from attestation.x509.trust import TrustRoot
from enclave.mock.pccs import PccsFault, PCCSSettings, create_pccs

BASE_URL = "https://pccs.example:8081"


class ManualClock:
    """Time that moves only when a test moves it, or when a task sleeps on it."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.slept_s: list[float] = []

    def __call__(self) -> datetime:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now += timedelta(seconds=seconds)


@dataclass
class FaultScript:
    """Faults by item: each is used up by one answer; ``always`` never is."""

    once: dict[str, list[PccsFault | None]] = field(default_factory=lambda: defaultdict(list))
    always: dict[str, PccsFault] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def __call__(self, item: str) -> PccsFault | None:
        self.asked[item] += 1
        if self.once[item]:
            return self.once[item].pop(0)
        return self.always.get(item)

    def fail_all(self, fault: PccsFault) -> None:
        self.always = dict.fromkeys(("root-crl", "pck-crl", "tcb-info", "qe-identity"), fault)


@dataclass
class ClientRig:
    """A client, the service it talks to, and everything a test may want to turn."""

    clock: ManualClock
    serving: list[Endorsements]
    faults: FaultScript
    client: CollateralClient
    changes: list[Collateral]
    http: httpx.AsyncClient

    def serve(self, endorsements: Endorsements) -> None:
        """Serve another set from now on."""
        self.serving[0] = endorsements


def make_rig(
    endorsements: Endorsements,
    *,
    root: TrustRoot,
    now: datetime,
    directory: Path | None = None,
    sources: tuple[Source, ...] = (Source.pccs(BASE_URL),),
    update: TcbUpdate = UpdateMode.STANDARD,
    seen: FreshnessState | None = None,
    jitter: float = 0.0,
    transport: Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport] = lambda inner: inner,
    **settings: object,
) -> ClientRig:
    """Return a client of a PCCS that serves this set, over ASGI: no socket, no real time."""
    clock = ManualClock(now)
    serving = [endorsements]
    faults = FaultScript()
    app = create_pccs(
        PCCSSettings(
            endorsements=lambda: serving[0],
            fault=faults,
            sleep=clock.sleep,
            **settings,  # type: ignore[arg-type]  # the tests name the settings' own fields
        )
    )
    http = httpx.AsyncClient(transport=transport(httpx.ASGITransport(app=app)))
    changes: list[Collateral] = []
    client = CollateralClient(
        sources=sources,
        root=root,
        update=update,
        fetcher=Fetcher(http, clock=clock, sleep=clock.sleep, jitter=lambda: jitter),
        disk=None if directory is None else DiskCache(directory),
        clock=clock,
        sleep=clock.sleep,
        jitter=lambda: jitter,
        seen=seen or FreshnessState(),
        on_change=changes.append,
    )
    return ClientRig(clock=clock, serving=serving, faults=faults, client=client, changes=changes, http=http)


def platform_of(endorsements: Endorsements, ca: PckCaKind = PckCaKind.PLATFORM) -> Platform:
    """Return the platform that a set is for."""
    return Platform(fmspc=bytes.fromhex(json.loads(endorsements.tcb_info)["fmspc"]), ca=ca)
