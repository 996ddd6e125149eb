"""``bondstone status --watch`` shows the group again and again."""

import pytest

from node.cli import status
from node.client import BondstoneClient, UnreachableError
from node.tokens import AccessRole
from tests.node.api.fakes import TOKENS, FakeService, served, write_ca


class SometimesAway(BondstoneClient):
    """Reaches no node at its second question."""

    asked = 0

    def group(self):
        self.asked += 1
        if self.asked == 2:
            raise UnreachableError("no node answered")
        return super().group()


def test_a_watched_group_is_shown_again_also_after_no_node_answered(tmp_path, capsys, monkeypatch):
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    def connect(url, token, ca):
        return SometimesAway(url, token=token, ca=ca)

    monkeypatch.setattr(status, "sleep", pause)
    monkeypatch.setattr(status, "connect", connect)
    ca = write_ca(tmp_path)
    with served(FakeService()) as port:
        url = [f"https://127.0.0.1:{port}"]
        with pytest.raises(KeyboardInterrupt):
            status.command(url, TOKENS[AccessRole.ADMIN], ca, as_json=False, watch=True)
    printed = capsys.readouterr()

    assert pauses == [status.WATCH_S] * 3
    assert printed.out.count("answered by node-a") == 2
    assert printed.err == "no answer: no node answered\n"
