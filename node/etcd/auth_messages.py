"""The messages of etcd's service Auth; see ``node.etcd.messages``."""

from enum import IntEnum
from typing import Annotated

from node.etcd.messages import Message, ResponseHeader, Uint64


class PermissionType(IntEnum):
    READ = 0
    WRITE = 1
    READWRITE = 2


class UserAddOptions(Message, frozen=True):
    no_password: Annotated[bool, 1] = False


class Permission(Message, frozen=True):
    permType: Annotated[int, 1, PermissionType] = 0
    key: Annotated[bytes, 2] = b""
    range_end: Annotated[bytes, 3] = b""


class AuthEnableRequest(Message, frozen=True):
    pass


class AuthEnableResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None


class AuthDisableRequest(Message, frozen=True):
    pass


class AuthDisableResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None


class AuthStatusRequest(Message, frozen=True):
    pass


class AuthStatusResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    enabled: Annotated[bool, 2] = False
    authRevision: Annotated[Uint64, 3] = 0


class AuthenticateRequest(Message, frozen=True):
    name: Annotated[str, 1] = ""
    password: Annotated[str, 2] = ""


class AuthenticateResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    token: Annotated[str, 2] = ""


class AuthUserAddRequest(Message, frozen=True):
    name: Annotated[str, 1] = ""
    password: Annotated[str, 2] = ""
    options: Annotated[UserAddOptions | None, 3] = None
    hashedPassword: Annotated[str, 4] = ""


class AuthUserAddResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None


class AuthUserGetRequest(Message, frozen=True):
    name: Annotated[str, 1] = ""


class AuthUserGetResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    roles: Annotated[list[str], 2] = []


class AuthUserListRequest(Message, frozen=True):
    pass


class AuthUserListResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    users: Annotated[list[str], 2] = []


class AuthUserDeleteRequest(Message, frozen=True):
    name: Annotated[str, 1] = ""


class AuthUserDeleteResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None


class AuthUserChangePasswordRequest(Message, frozen=True):
    name: Annotated[str, 1] = ""
    password: Annotated[str, 2] = ""
    hashedPassword: Annotated[str, 3] = ""


class AuthUserChangePasswordResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None


class AuthUserGrantRoleRequest(Message, frozen=True):
    user: Annotated[str, 1] = ""
    role: Annotated[str, 2] = ""


class AuthUserGrantRoleResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None


class AuthUserRevokeRoleRequest(Message, frozen=True):
    name: Annotated[str, 1] = ""
    role: Annotated[str, 2] = ""


class AuthUserRevokeRoleResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None


class AuthRoleAddRequest(Message, frozen=True):
    name: Annotated[str, 1] = ""


class AuthRoleAddResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None


class AuthRoleGetRequest(Message, frozen=True):
    role: Annotated[str, 1] = ""


class AuthRoleGetResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    perm: Annotated[list[Permission], 2] = []


class AuthRoleListRequest(Message, frozen=True):
    pass


class AuthRoleListResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
    roles: Annotated[list[str], 2] = []


class AuthRoleDeleteRequest(Message, frozen=True):
    role: Annotated[str, 1] = ""


class AuthRoleDeleteResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None


class AuthRoleGrantPermissionRequest(Message, frozen=True):
    name: Annotated[str, 1] = ""
    perm: Annotated[Permission | None, 2] = None


class AuthRoleGrantPermissionResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None


class AuthRoleRevokePermissionRequest(Message, frozen=True):
    role: Annotated[str, 1] = ""
    key: Annotated[bytes, 2] = b""
    range_end: Annotated[bytes, 3] = b""


class AuthRoleRevokePermissionResponse(Message, frozen=True):
    header: Annotated[ResponseHeader | None, 1] = None
