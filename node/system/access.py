"""The access list as replicated state: the same on every member at the same index.

It begins with the founding list, which is in the group document and so in the GroupId. Commands, which need
``admin``:

    ["access-new", grant]                                     -> {"name", "credential", "admins"}
    ["access-revoke", {"name" | "credential", "force"?}]      -> {"name", "credential", "admins"}

Queries: ``["access-list"]``, which needs ``admin``, -> ``{"grants": [grant...]}``, without passwords; and
``["access-current"]``, which is for members, -> null: a strong query of it makes this node's list current.
``grant`` has the form in ``node.system.forms``; ``admins`` is the number of admins afterwards.

Time is the log's own: for a command, a grant has expired if the time of the command's entry is past its
expiry, on every member alike.
"""

from collections.abc import Iterable
from typing import Any, Final, assert_never

from node.machines.base import ApplyContext, CommandError, StateMachine
from node.machines.system import RequestKind, SystemPart, name_of
from node.system.access_list import AccessList
from node.system.forms import checked, decode_grant_untrusted, encode_grant, invalid
from node.system.grants import CREDENTIAL_BYTES, AccessRole, Grant, not_permitted

PART: Final = "access"
CURRENT: Final = "access-current"
_NAMES: Final = frozenset({"access-new", "access-revoke", "access-list", CURRENT})
# A tuple: for two members it is faster than a set, and every command is judged here.
_SYSTEM: Final = (RequestKind.SYSTEM_COMMAND, RequestKind.SYSTEM_QUERY)


class AccessState(SystemPart):
    """The access list that the log changes.

    Args:
        founding: the list of the group document.
    """

    def __init__(self, founding: Iterable[Grant] = ()) -> None:
        self._grants = AccessList(checked(grant) for grant in founding)

    @property
    def part(self) -> str:
        return PART

    @property
    def names(self) -> frozenset[str]:
        return _NAMES

    @property
    def grants(self) -> AccessList:
        """The list as of the newest applied entry. The value never changes: a new list takes its place."""
        return self._grants

    # ---- permissions ------------------------------------------------------
    def judge(
        self,
        credential: bytes | None,
        request: RequestKind,
        value: Any,
        *,
        now_ms: int,
        machine: StateMachine,
    ) -> None:
        """Refuse a caller that may not make this request, with ``not-permitted``.

        A malformed command or query may be refused with the machine's own code.

        A member may make requests for itself, because its evidence was accepted; but no changes of this list.
        """
        if credential is None:
            if request in _SYSTEM and name_of(value) in _NAMES - {CURRENT}:
                raise not_permitted("who may call is changed by a caller with the role `admin` alone")
            return
        if credential in self._grants.unlimited and request not in _SYSTEM:
            return
        grant = self._grants.require(credential, now_ms)
        match request:
            case RequestKind.COMMAND:
                grant.permit_command(value, machine)
            case RequestKind.QUERY:
                grant.permit_query(value, machine)
            case RequestKind.SYSTEM_COMMAND | RequestKind.SYSTEM_QUERY:
                grant.permit(AccessRole.ADMIN)
            case _:
                assert_never(request)

    # ---- commands -------------------------------------------------------------
    def apply(self, command: Any, context: ApplyContext) -> dict[str, Any]:
        """Execute one change.

        Raises:
            CommandError: the change is refused, and the list stays as it was.
        """
        match command:
            case ["access-new", form]:
                return self._new(decode_grant_untrusted(form), context.time_ms)
            case ["access-revoke", dict(what)]:
                return self._revoke(what, context.time_ms)
            case _:
                raise invalid("a change is [`access-new`, grant] or [`access-revoke`, which]")

    def _new(self, grant: Grant, now_ms: int) -> dict[str, Any]:
        if grant.expired(now_ms):
            raise CommandError("access-expired", "`expires_ms` is over already, by the group's clock")
        self._grants = self._grants.with_grant(grant, now_ms)
        return self._changed(grant, now_ms)

    def _revoke(self, what: dict[Any, Any], now_ms: int) -> dict[str, Any]:
        grant = self._named(what)
        force = what.get("force", False)
        if not isinstance(force, bool):
            raise invalid("`force` is true or false")
        left = self._grants.without(grant)
        if not force and self._loses_last_admin(grant, left, now_ms):
            raise CommandError(
                "access-last-admin",
                f"{grant.name} is the last admin, or the last that does not expire: without one, nobody can"
                " change who may call, for good; `force` revokes it all the same",
            )
        self._grants = left
        return self._changed(grant, now_ms)

    def _loses_last_admin(self, grant: Grant, left: AccessList, now_ms: int) -> bool:
        if not grant.is_admin or grant.expired(now_ms):
            return False
        others = left.admins(now_ms)
        return not others or (grant.expires_ms is None and all(one.expires_ms for one in others))

    def _named(self, what: dict[Any, Any]) -> Grant:
        match what.get("name"), what.get("credential"):
            case str(name), None:
                grant = self._grants.of_name(name)
            case None, bytes(credential) if len(credential) == CREDENTIAL_BYTES:
                grant = self._grants.of_credential(credential)
            case _:
                raise invalid("give exactly one of `name` and `credential`")
        if not what.keys() <= {"name", "credential", "force"}:
            raise invalid("unknown member beside `name`, `credential` and `force`")
        if grant is None:
            raise CommandError("access-unknown", "there is no such credential in the access list")
        return grant

    def _changed(self, grant: Grant, now_ms: int) -> dict[str, Any]:
        admins = len(self._grants.admins(now_ms))
        return {"name": grant.name, "credential": grant.credential, "admins": admins}

    # ---- queries --------------------------------------------------------------
    def query(self, query: Any) -> dict[str, Any] | None:
        """Answer from the list.

        Raises:
            CommandError: ``query`` is not one of the queries.
        """
        if list(query) == [CURRENT]:
            return None
        if list(query) != ["access-list"]:
            raise invalid("the queries are [`access-list`] and [`access-current`]")
        grants = [encode_grant(grant) for grant in self._grants]
        for form in grants:
            form.pop("password", None)
        return {"grants": grants}

    # ---- state ------------------------------------------------------------------
    def savepoint(self) -> AccessList:
        return self._grants

    def rollback(self, savepoint: AccessList) -> None:
        self._grants = savepoint

    def snapshot(self) -> list[dict[str, Any]]:
        """Return the whole list as plain data, in the order in which it was granted."""
        return [encode_grant(grant) for grant in self._grants]

    def restore(self, snapshot: Any) -> None:
        """Replace the whole list.

        Raises:
            ValueError: this is not a snapshot of an access list; the list is unchanged.
        """
        match snapshot:
            case [*forms]:
                pass
            case _:
                raise ValueError("not a snapshot of an access list")
        try:
            self._grants = AccessList(decode_grant_untrusted(form) for form in forms)
        except CommandError as exc:
            raise ValueError(f"not a snapshot of an access list: {exc.message}") from exc
