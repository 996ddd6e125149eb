"""From the node's values to the API's responses."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from attestation.tickets.protocol import Cluster
from node.api import schemas
from node.api.service import BondView, GroupView
from node.features import Build, Levels
from node.peers import Incarnation
from node.raft.outlook import Outlook, Quorum, describe
from node.raft.types import InstallStatus, MemberStatus, SnapshotStatus


def group_response(view: GroupView, *, mock: bool) -> schemas.Group:
    status = view.status
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
        config_epoch=status.config_epoch,
        voters=[voter.id.hex() for voter in status.voters],
        learners=[learner.id.hex() for learner in status.learners],
        tie=_peer_id(status.tie),
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
    )


def _snapshot(held: SnapshotStatus | None) -> schemas.Snapshot | None:
    return None if held is None else schemas.Snapshot(index=held.at.index, bytes=held.size)


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
    return [*quorum, *_few_electable(view), *noticed]


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


def members_response(status: MemberStatus, bonds: Iterable[BondView]) -> schemas.Members:
    """Return every member of the configuration, and as a learner every bonded peer outside it."""
    by_peer = {bond.peer: bond for bond in bonds}
    everyone = sorted({*status.voters, *status.learners, status.me, *by_peer})
    return schemas.Members(members=[_member(one, status, by_peer.get(one)) for one in everyone])


def _member(one: Incarnation, status: MemberStatus, bond: BondView | None) -> schemas.Member:
    role: Literal["leader", "voter", "learner"]
    if one == status.leader:
        role = "leader"
    elif one in status.voters:
        role = "voter"
    else:
        role = "learner"
    return schemas.Member(
        peer_id=one.id.hex(),
        name=one.name,
        role=role,
        self=one == status.me,
        bonded=bond is not None,
        address=None if bond is None else bond.address,
        api=None if bond is None else bond.api_url,
        match_index=status.match.get(one),
    )


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


def tickets_in_base64(tickets: Mapping[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(ticket).decode("ascii") for name, ticket in tickets.items()}


def _in_order(bonds: Iterable[BondView]) -> Sequence[BondView]:
    return sorted(bonds, key=lambda bond: bond.peer)


def _peer_id(incarnation: Incarnation | None) -> str | None:
    return None if incarnation is None else incarnation.id.hex()
