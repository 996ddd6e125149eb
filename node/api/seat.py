"""One connection's place among all of the API, and who its caller is: alike for both versions of HTTP."""

from collections.abc import Callable
from typing import Any, Final

from node.api.access import CLIENT_CERTIFICATE
from node.api.problems import ProblemError
from node.api.turns import CALLER
from node.places import Places, Stay, share_of_address

_CLOSE: Final = {"connection": "close"}


class Seat:
    """The place of one connection.

    Args:
        places: of all connections.
        is_free: whether no request on the connection waits for an answer.
        crowd_out: gives the connection up, at once. The client may connect again.

    Attributes:
        extensions: of the scope of each request on the connection.
        caller: the credential that the connection showed last.
    """

    def __init__(
        self, places: Places["Seat"], *, is_free: Callable[[], bool], crowd_out: Callable[[], None]
    ) -> None:
        self._places = places
        self._is_free = is_free
        self._crowd_out = crowd_out
        self.extensions: dict[str, Any] = {}
        self.caller: bytes | None = None

    def may_go(self) -> bool:
        """Return whether another connection may have this place."""
        return self._is_free()

    def take(self, transport: Any, ip: str) -> None:
        """Take a place as a stranger from this address. Another connection may lose its place.

        Raises:
            ProblemError: there is none.
        """
        if not self._enter(share_of_address(ip), known=False):
            raise ProblemError("overloaded", "too many connections")
        tls = transport.get_extra_info("ssl_object")
        certificate = None if tls is None else tls.getpeercert(binary_form=True)
        if certificate is not None:
            self.extensions[CLIENT_CERTIFICATE] = certificate

    def vouched(self, credential: bytes, body: Stay | None) -> None:
        """The caller of a request has shown this credential; ``body`` is what the request's body holds.

        Raises:
            ProblemError: this caller already uses too much of the node.
        """
        if credential != self.caller:
            if not self._enter(credential, known=True):
                raise ProblemError("overloaded", "too many connections", headers=_CLOSE)
            self.caller = self.extensions[CALLER] = credential
        if body is not None and not body.vouch(credential):
            raise ProblemError(
                "overloaded", "the bodies of your other requests leave no room for this one", headers=_CLOSE
            )

    def leave(self) -> None:
        """Give the place back."""
        self._places.leave(self)

    def _enter(self, share: str | bytes, *, known: bool) -> bool:
        goes = self._places.enter(self, share, known=known)
        if goes is not None and goes is not self:
            goes._crowd_out()
        return goes is not self
