"""From the node's values to the API's responses."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from attestation.tickets.protocol import Cluster
from node.api import schemas
from node.api.service import BondView, GroupView
from node.features import Build, Levels
from node.peers import Incarnation, Preference
from node.raft.outlook import Outlook, Quorum, describe
from node.raft.quorum import Config
from node.raft.types import InstallStatus, SnapshotStatus


def group_response(view: GroupView, *, mock: bool) -> schemas.Group:
    status, committed = view.status, committed_config(view)
    return schemas.Group(
        group_id=view.group_id.hex(),
        network_id=view.network_id.hex(),
        cluster_id=None if status.cluster_id is None else status.cluster_id.hex(),
        generation=0 if view.cluster is None else view.cluster.generation,
        me=schemas.Node(name=status.me.name, peer_id=status.me.id.hex()),
        role="halted" if status.halted is not None else status.role.value,
        leader=_peer_id(status.leader),
        term=status.term,
        commit_index=status.commit.index,
        applied_index=status.applied,
        last_index=status.last.index,
        config_epoch=committed.epoch,
        voters=[voter.id.hex() for voter in committed.voters],
        learners=[learner.id.hex() for learner in _learners(view)],
        tie=_peer_id(committed.tie),
        online=status.online,
        halted=status.halted,
        state_machine=view.state_machine,
        mock=mock,
        levels=_levels(status.levels),
        log_first_index=status.base + 1,
        log_bytes=status.log_bytes,
        snapshot=_snapshot(status.snapshot),
        install=_install(status.install),
        warnings=_warnings(view),
        quorum=quorum_schema(view.outlook),
        memory=_memory(view),
        pending_change=_pending_change(view),
    )


def committed_config(view: GroupView) -> Config:
    """Return the committed configuration, as far as this node knows; without voters before the genesis."""
    return view.configs[0] if view.configs else Config(epoch=0, voters=(), tie=None, reason="")


def voters_of_all(view: GroupView) -> set[Incarnation]:
    """Return the voters of the committed configuration and of every pending one."""
    return {voter for config in view.configs for voter in config.voters}


def _learners(view: GroupView) -> list[Incarnation]:
    """Return the members that have no vote in the committed configuration."""
    return sorted({*view.status.learners, *voters_of_all(view)} - {*committed_config(view).voters})


def _pending_change(view: GroupView) -> schemas.PendingChange | None:
    if len(view.configs) < 2:
        return None
    last = view.configs[-1]
    voters = [voter.id.hex() for voter in last.voters]
    return schemas.PendingChange(config_epoch=last.epoch, voters=voters, reason=last.reason)


def _snapshot(held: SnapshotStatus | None) -> schemas.Snapshot | None:
    return None if held is None else schemas.Snapshot(index=held.at.index, bytes=held.size)


def _memory(view: GroupView) -> schemas.Memory:
    use, budget = view.memory.use, view.memory.budget
    return schemas.Memory(
        budget=budget.size,
        mark=budget.mark,
        used=use.total,
        log=use.log,
        kept_results=use.kept,
        keys=use.keys,
        store=use.store,
        store_quota=view.quota_bytes,
        snapshots=use.snapshots,
        fetched=use.fetched,
        buffers=use.buffers,
    )


def _little_memory(view: GroupView) -> list[schemas.StatusWarning]:
    """Name the members for which this leader refuses writes; on another node, this node if it is one."""
    use, budget = view.memory.use.total, view.memory.budget
    short = [(peer.name, known.use, known.budget.size) for peer, known in view.memory.pressed]
    if use >= budget.mark and view.status.me not in [peer for peer, _ in view.memory.pressed]:
        short.append((view.status.me.name, use, budget.size))
    return [
        schemas.StatusWarning(
            code="memory-nearly-full",
            message=f"{name} uses {used} of its memory budget of {size} bytes: writes are refused meanwhile",
        )
        for name, used, size in short
    ]


def _install(under_way: InstallStatus | None) -> schemas.Install | None:
    if under_way is None:
        return None
    return schemas.Install(
        index=under_way.at.index,
        chunks=under_way.done,
        of_chunks=under_way.count,
        bytes=under_way.size,
        sources=under_way.sources,
    )


def quorum_schema(outlook: Outlook) -> schemas.Quorum:
    return schemas.Quorum(
        state=outlook.quorum.value,
        waiting_helps=outlook.waiting_helps,
        missing=[
            schemas.MissingVoter(name=one.voter.name, peer_id=one.voter.id.hex(), why=one.why.value)
            for one in outlook.absent
        ],
        message=describe(outlook),
    )


def is_ill(outlook: Outlook) -> bool:
    """Return whether, as far as this node sees, the group cannot serve some or all operations."""
    return outlook.quorum in (Quorum.SHORT, Quorum.LOST, Quorum.GONE)


def _levels(levels: Levels | None) -> schemas.Levels | None:
    if levels is None:
        return None
    return schemas.Levels(feature_level=levels.level, machine=levels.family, machine_version=levels.version)


def _software(build: Build) -> schemas.Software:
    return schemas.Software(
        image=build.image,
        feature_levels=list(build.features),
        machine=build.family,
        machine_versions=list(build.versions),
    )


def _warnings(view: GroupView) -> list[schemas.StatusWarning]:
    noticed = [schemas.StatusWarning(code=one.code, message=one.message) for one in view.notices]
    quorum = []
    if is_ill(view.outlook):
        code = f"quorum-{view.outlook.quorum.value}"
        quorum = [schemas.StatusWarning(code=code, message=describe(view.outlook))]
    return [*quorum, *_few_electable(view), *_little_memory(view), *noticed]


def _few_electable(view: GroupView) -> list[schemas.StatusWarning]:
    electable = view.status.electable
    if len(electable) >= view.min_voters:
        return []
    names = ", ".join(one.name for one in electable) or "nobody"
    return [
        schemas.StatusWarning(
            code="too-few-electable",
            message=(
                f"the group wants at least {view.min_voters} voters, and this node sees only "
                f"{len(electable)} that may vote ({names}): the others are down or observers"
            ),
        ),
    ]


def members_response(view: GroupView, bonds: Iterable[BondView]) -> schemas.Members:
    """Return every member of the configurations, and as a learner every bonded peer outside them."""
    by_peer = {bond.peer: bond for bond in bonds}
    everyone = sorted({*voters_of_all(view), *view.status.learners, view.status.me, *by_peer})
    return schemas.Members(
        members=[_member(one, view, by_peer.get(one)) for one in everyone],
        config_epoch=committed_config(view).epoch,
        pending_change=_pending_change(view),
    )


def _member(one: Incarnation, view: GroupView, bond: BondView | None) -> schemas.Member:
    status, leading = view.status, view.leading
    match = status.last.index if leading is not None and one == status.me else status.match.get(one)
    return schemas.Member(
        peer_id=one.id.hex(),
        name=one.name,
        role=_role(one, view, bond),
        self=one == status.me,
        bonded=bond is not None,
        address=None if bond is None else bond.address,
        api=None if bond is None else bond.api_url,
        match_index=status.match.get(one),
        connected=(bond is not None or one == status.me) if leading is None else one in leading.responsive,
        caught_up=None if leading is None else one in leading.in_step,
        lag=None if leading is None or match is None else max(status.last.index - match, 0),
        pending=_pending(one, view),
    )


def _role(
    one: Incarnation, view: GroupView, bond: BondView | None
) -> Literal["leader", "voter", "learner", "observer"]:
    if one == view.status.leader:
        return "leader"
    if one in committed_config(view).voters:
        return "voter"
    never_votes = bond is not None and bond.preference is Preference.OBSERVER
    never_votes = never_votes or (one == view.status.me and one not in view.status.electable)
    return "observer" if never_votes else "learner"


def _pending(one: Incarnation, view: GroupView) -> Literal["promotion", "demotion"] | None:
    if len(view.configs) < 2 or (one in view.configs[0].voters) == (one in view.configs[-1].voters):
        return None
    return "promotion" if one in view.configs[-1].voters else "demotion"


def bonds_response(bonds: Iterable[BondView], *, mock: bool) -> schemas.Bonds:
    return schemas.Bonds(
        mock=mock,
        bonds=[
            schemas.Bond(
                peer_id=bond.peer.id.hex(),
                name=bond.peer.name,
                preference=bond.preference.value,
                address=bond.address,
                api=bond.api_url,
                outgoing=bond.outgoing,
                since=bond.since,
                expires_at=bond.expires_at,
                mock=bond.mock,
                appraisals=bond.appraisals,
                software=_software(bond.build),
            )
            for bond in _in_order(bonds)
        ],
    )


def peers_response(bonds: Iterable[BondView], *, mock: bool) -> schemas.PeersEvidence:
    return schemas.PeersEvidence(
        mock=mock,
        peers=[
            schemas.PeerEvidence(
                peer_id=bond.peer.id.hex(),
                name=bond.peer.name,
                mock=bond.mock,
                since=bond.since,
                expires_at=bond.expires_at,
                tickets=tickets_in_base64(bond.tickets),
                appraisals=bond.appraisals,
            )
            for bond in _in_order(bonds)
        ],
    )


def cluster_schema(cluster: Cluster | None) -> schemas.Cluster | None:
    if cluster is None:
        return None
    return schemas.Cluster(id=cluster.id.hex(), generation=cluster.generation)


def base64_of(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode("ascii")


def tickets_in_base64(tickets: Mapping[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(ticket).decode("ascii") for name, ticket in tickets.items()}


def _in_order(bonds: Iterable[BondView]) -> Sequence[BondView]:
    return sorted(bonds, key=lambda bond: bond.peer)


def _peer_id(incarnation: Incarnation | None) -> str | None:
    return None if incarnation is None else incarnation.id.hex()
