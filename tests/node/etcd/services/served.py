"""The services over a node without consensus, with the real machine and access list."""

import asyncio

from node.api.passwords import PasswordJudge
from node.api.problems import ProblemError
from node.etcd.errors import EtcdError
from node.etcd.services.auth import AuthService
from node.etcd.services.backend import Backend
from node.etcd.services.call import Call
from node.etcd.services.cluster import ClusterService
from node.etcd.services.kv import KvService
from node.etcd.services.lease import LeaseService
from node.etcd.services.maintenance import MaintenanceService
from node.system.grants import AccessRole
from tests.node.api.fakes import ACCESS, FakeService

GRANTS = {grant.roles[0]: grant for grant in ACCESS}


class Gate:
    current = True

    async def require_current(self):
        self.require_still_current()

    def require_still_current(self):
        if not self.current:
            raise ProblemError("access-not-current", "no leader")


class Etcd:
    """``kv("put", message)`` and so on call as the admin; ``refused`` returns code and text of the refusal."""

    def __init__(self, service=None):
        self.service = service or FakeService()
        self.gate = Gate()
        self.grants = dict(GRANTS)
        self.backend = Backend(self.service, self.gate)
        self.services = {
            "kv": KvService(self.backend),
            "lease": LeaseService(self.backend),
            "cluster": ClusterService(self.backend),
            "maintenance": MaintenanceService(self.backend),
            "auth": AuthService(self.backend, PasswordJudge()),
        }

    def call(self, name, method, request, *, role=AccessRole.ADMIN, grant=None, within_s=None, **more):
        async def run():
            now = asyncio.get_running_loop().time()
            call = Call(
                grant=self.grants[grant or role],
                deadline=None if within_s is None else now + within_s,
                metadata={},
                idempotency_key=more.get("idempotency_key"),
            )
            return await getattr(self.services[name], method)(request, call)

        return asyncio.run(run())

    def kv(self, method, request, **more):
        return self.call("kv", method, request, **more)

    def refused(self, name, method, request, **more):
        try:
            answer = self.call(name, method, request, **more)
        except EtcdError as exc:
            return exc.code, exc.message
        raise AssertionError(f"answered: {answer}")
