"""Clients that find their cluster in the environment, or beside ``bondstone dev``."""

import json

import pytest

from node.client import AsyncClient, Client, VerifiedBy
from node.errors import ConfigError
from tests.node.api.fakes import FakeService, served
from tests.node.client.scripted import TOKEN, Blocking, urls_of


def blocking(make):
    return Blocking(make)


def now(make):
    return make()


@pytest.fixture(params=[(Client, now), (AsyncClient, blocking)], ids=["Client", "AsyncClient"])
def made(request):
    kind, run = request.param
    return lambda method, *given, **more: run(lambda: getattr(kind, method)(*given, **more))


def test_the_environment_names_the_cluster(ca, made, monkeypatch):
    with served(FakeService()) as port:
        monkeypatch.setenv("BONDSTONE_URL", urls_of([port])[0])
        monkeypatch.setenv("BONDSTONE_TOKEN", TOKEN)
        monkeypatch.setenv("BONDSTONE_CA", str(ca))
        client = made("from_env", deadline_s=10)
        assert client.put("a", "1") == 2
        client.close()


def test_bondstone_dev_left_everything_in_its_directory(ca, made, tmp_path):
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "token").chmod(0o600)
    with served(FakeService()) as port:
        settings = {"urls": urls_of([port]), "ca": str(ca), "token_file": str(tmp_path / "token")}
        (tmp_path / "client.json").write_text(json.dumps(settings))
        client = made("from_dev", tmp_path)
        assert client.put("a", "1") == 2
        client.close()


def test_what_is_missing_is_named(made, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("URL", "TOKEN", "CA", "CLUSTER"):
        monkeypatch.delenv(f"BONDSTONE_{name}", raising=False)
    with pytest.raises(ConfigError, match="which cluster"):
        made("from_env")
    with pytest.raises(ConfigError, match=r"client\.json"):
        made("from_dev", tmp_path)


def test_evidence_replaces_the_certificates_that_the_settings_name(ca, monkeypatch, tmp_path):
    monkeypatch.setenv("BONDSTONE_URL", "https://localhost:1")
    monkeypatch.setenv("BONDSTONE_CA", str(ca))
    with pytest.raises(ConfigError, match="the policy"):  # it is this one that is read
        Client.from_env(verified_by=VerifiedBy(policy=tmp_path / "nowhere.toml"))
