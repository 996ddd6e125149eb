"""``bondstone group recover --from-survivor --key``: the authority's signature is over exactly this recovery."""

from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from node.authority import new_private_key_pem, render_authority
from node.cli.main import build_app
from node.group_document import load_group_document
from node.raft.succession import INDEX_JUMP, Predecessor, recovery_statement
from node.raft.types import NotExecuted
from node.survivor import SurvivorRecovery
from node.tokens import AccessRole
from tests.node.api.fakes import LOG_END, ME, TOKENS, FakeService, SurvivorView, served, write_ca
from tests.support.documents import MINIMAL

POSITION = f"{LOG_END.term}:{LOG_END.index}:{LOG_END.chain.hex()}"


@dataclass
class Survivor(FakeService):
    """A voter of a group with an authority: it judges an approval as the member does."""

    rule: SurvivorRecovery | None = None
    group_id: bytes = b""

    def survivor(self):
        return SurvivorView(authorized=True, needs_approval=True, log_end=LOG_END)

    async def recover(self, position, approval, *, by, timeout_s):
        lost = Predecessor(cluster=self.cluster.id, position=LOG_END, jump=INDEX_JUMP, approval=approval)
        if position != LOG_END or not self.rule.permits(
            recovery_statement(self.group_id, lost, ME.id), approval
        ):
            return NotExecuted("approval-refused")
        return await super().recover(position, approval, by=by, timeout_s=timeout_s)


@contextmanager
def survivor(tmp_path):
    """Serve a survivor; give it, and a function that runs the command with these flags."""
    keys = {}
    for name in ("ops", "stranger"):
        keys[name], pem = new_private_key_pem()
        (tmp_path / f"{name}.pem").write_bytes(pem)
        (tmp_path / f"{name}.pem").chmod(0o600)
    authority = render_authority("ops", keys["ops"])
    text = f'{MINIMAL}{authority}\n[recovery]\nauthorize = "survivor"\n'
    (tmp_path / "group.toml").write_text(text)
    (tmp_path / "other.toml").write_text(text.replace('name = "n"', 'name = "m"'))
    document = load_group_document(tmp_path / "group.toml")
    service = Survivor(rule=SurvivorRecovery(document.authority), group_id=document.group_id)
    ca = write_ca(tmp_path)
    with served(service) as port:

        def recover(*flags):
            access = ["--token", TOKENS[AccessRole.ADMIN], "--ca", str(ca)]
            url = f"https://127.0.0.1:{port}"
            return CliRunner().invoke(
                build_app("group"), ["group", "recover", "--from-survivor", url, *access, *flags]
            )

        yield service, recover


def signed_by(tmp_path, key, document="group.toml"):
    return ("--group-document", str(tmp_path / document), "--key", str(tmp_path / f"{key}.pem"))


def test_the_authoritys_key_approves_what_the_survivor_showed(tmp_path):
    with survivor(tmp_path) as (service, recover):
        shown = recover()
        done = recover("--position", POSITION, *signed_by(tmp_path, "ops"))

    assert f"position: {POSITION}" in shown.output
    assert "the group has an authority: give --group-document and --key" in shown.output
    assert done.exit_code == 0, done.output
    assert "leads cluster" in done.output
    ((_, position, approval),) = service.noted
    assert position == LOG_END
    assert approval


@pytest.mark.parametrize(
    "how", ["no key", "another key", "another group's document", "another position of the same length"]
)
def test_without_exactly_that_signature_nothing_is_founded(tmp_path, how):
    with survivor(tmp_path) as (service, recover):
        position, flags = POSITION, signed_by(tmp_path, "ops")
        if how == "no key":
            flags = ()
        elif how == "another key":
            flags = signed_by(tmp_path, "stranger")
        elif how == "another group's document":
            flags = signed_by(tmp_path, "ops", "other.toml")
        else:
            position = f"{LOG_END.term}:{LOG_END.index}:{'0' * 64}"
        run = recover("--position", position, *flags)

    assert run.exit_code != 0
    assert service.noted == []
