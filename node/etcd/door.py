"""What serves etcd's API on a node."""

from node.api.app import Api
from node.api.limits import ApiLimits
from node.api.service import Service
from node.etcd.admission import CallAdmission
from node.etcd.grpc import GrpcDoor
from node.etcd.health import HealthService


def grpc_door(app: Api, service: Service, limits: ApiLimits) -> GrpcDoor:
    """Return the door of gRPC beside the application of a node."""
    services: dict[str, object] = {}
    services["grpc.health.v1.Health"] = HealthService(service.leaderless, services)
    return GrpcDoor(services, CallAdmission(app.gate, app.hand_over), limits.calls_max)
