"""``grpc.health.v1.Health``: whether a client may expect answers here."""

from collections.abc import Callable, Container

from node.api.turns import Asking
from node.etcd.errors import Code, EtcdError
from node.etcd.messages import HealthCheckRequest, HealthCheckResponse, ServingStatus


class HealthService:
    """Serves if a leader is known: without one, nothing but stale reads is answered.

    Args:
        leaderless: whether no leader is known.
        services: the names of all services.
    """

    def __init__(self, leaderless: Callable[[], bool], services: Container[str]) -> None:
        self._leaderless = leaderless
        self._services = services

    async def check(self, request: HealthCheckRequest, who: Asking) -> HealthCheckResponse:  # noqa: ARG002
        """Answer anybody.

        Raises:
            EtcdError: NOT_FOUND, there is no service of this name.
        """
        if request.service and request.service not in self._services:
            raise EtcdError(Code.NOT_FOUND, "unknown service")
        status = ServingStatus.NOT_SERVING if self._leaderless() else ServingStatus.SERVING
        return HealthCheckResponse(status=status)
