"""The client: against the real server, and against scripted nodes that fail in every way."""

from datetime import UTC, datetime

import httpx
import msgspec
import pytest

from enclave.identity import Identity
from node.api import schemas
from node.api.evidence import binding_of_nonce
from node.client import (
    AlreadyExecutedError,
    AnswerInvalidError,
    BondstoneClient,
    NotExecutedError,
    OutcomeUnknownError,
    RefusedError,
    UnreachableError,
    fetch_evidence_unauthenticated,
    provision_group_key,
)
from node.errors import ConfigError
from node.machines.kv import machine as kv
from tests.node.api.fakes import IDENTITY, ME, FakeService, served
from tests.node.client.scripted import OK, TOKEN, connected, problem


# ---- over the real server -------------------------------------------------------------
def test_keys_and_values_of_text_and_bytes(ca):
    with served(FakeService()) as port, connected(ca, port) as client:
        assert client.put("a", "1") == 2
        assert client.put(b"\xff", b"\x00\x80") == 3
        item = client.get("a")
        assert (item.key, item.value, item.version) == (b"a", b"1", 1)
        assert client.get(b"\xff").value == b"\x00\x80"
        assert client.get("b") is None
        assert client.compare_and_swap("a", expect="2", value="3") is False
        assert client.compare_and_swap("a", expect=b"1", value=None) is True
        assert client.delete("a") is False
        assert client.delete(b"\xff") is True


def test_list_follows_the_pages(ca, monkeypatch):
    monkeypatch.setattr(kv, "LIST_LIMIT_DEFAULT", 3)
    with served(FakeService()) as port, connected(ca, port) as client:
        names = [f"k{number}".encode() for number in range(8)]
        for name in names:
            client.put(name, "v")

        assert [item.key for item in client.list("k")] == names
        assert list(client.list("x")) == []


def test_the_rest_of_the_interface(ca):
    with served(FakeService()) as port, connected(ca, port) as client:
        assert client.ready().ready is True
        assert client.group().leader == ME.id.hex()
        assert [member.name for member in client.members().members] == ["node-a", "node-b", "node-c"]
        assert client.bonds().bonds[0].name == "node-b"
        assert client.peers().peers[0].tickets["tdx"] == "AHRpY2tldP8="
        assert [event["seq"] for event in client.audit_events(after=5)] == [6, 7]
        assert client.audit_head() == {"seq": 7, "hash": "00"}
        assert client.feed({"op": "delete", "key": "a"}).index == 1
        assert len(client.execute_many([{"op": "delete", "key": "a"}] * 2).results) == 2
        at = schemas.At(term=3, index=1)
        assert (
            client.query({"op": "get", "key": "a"}, consistency="weak", min_at=at, max_age_ms=9).age_ms == 5
        )


def test_a_refusal_carries_both_codes(ca):
    with (
        served(FakeService()) as port,
        connected(ca, port) as client,
        pytest.raises(RefusedError) as caught,
    ):
        client.execute({"op": "frob"})

    assert (caught.value.code, caught.value.reason) == ("command-failed", "op-unknown")


def test_a_node_that_is_down_is_passed_over(ca):
    with served(FakeService()) as gone:
        pass
    with served(FakeService()) as port, connected(ca, gone, port) as client:
        assert client.put("a", "1") == 2


def test_the_name_in_the_certificate_is_checked(ca):
    elsewhere = Identity.generate("node-a", datetime.now(UTC), hosts=("elsewhere.example",))
    ca.write_bytes(elsewhere.certificate_pem())
    service = FakeService()
    with (
        served(service, identity=elsewhere) as port,
        connected(ca, port, deadline_s=1.5) as client,
        pytest.raises(UnreachableError, match="Hostname mismatch"),
    ):
        client.put("a", "1")

    assert service.executed == []


def test_a_server_under_another_key_is_not_believed(ca):
    stranger = Identity.generate("node-a", datetime.now(UTC), hosts=("localhost",))
    service = FakeService()
    with (
        served(service, identity=stranger) as port,
        connected(ca, port, deadline_s=0.2) as client,
        pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        client.put("a", "1")

    assert service.executed == []


def test_the_certificates_are_read_again_when_a_node_was_started_anew(ca):
    reborn = Identity.generate("node-a", datetime.now(UTC), hosts=("localhost",))
    with served(FakeService(), identity=reborn) as port, connected(ca, port) as client:
        ca.write_bytes(IDENTITY.certificate_pem() + reborn.certificate_pem())

        assert client.put("a", "1") == 2


def test_evidence_comes_with_the_certificate_of_its_own_connection():
    nonce = b"n" * 32
    with served(FakeService()) as port:
        live = fetch_evidence_unauthenticated(f"https://127.0.0.1:{port}/", nonce)

    assert live.certificate_der == IDENTITY.certificate_der
    assert live.document.binding == binding_of_nonce(nonce).hex()


def test_the_group_key_goes_to_the_holder_of_the_verified_key_only():
    service = FakeService(group_key=None)
    stranger = Identity.generate("node-a", datetime.now(UTC), hosts=("localhost",))
    with served(service) as port:
        url = f"https://127.0.0.1:{port}"
        key = b"\x07" * 32
        with pytest.raises(UnreachableError):
            provision_group_key(url, certificate_der=stranger.certificate_der, group_key=key)
        assert service.group_key is None
        group_id = provision_group_key(url, certificate_der=IDENTITY.certificate_der, group_key=key)

        assert (group_id, service.group_key) == (bytes([8]) * 32, key)
        with pytest.raises(RefusedError) as caught:
            provision_group_key(url, certificate_der=IDENTITY.certificate_der, group_key=key)
        assert caught.value.reason == "not-awaited"


@pytest.mark.parametrize("url", ["http://localhost:1", "localhost:1", ""])
def test_evidence_and_keys_are_sent_over_https_only(url):
    with pytest.raises(ConfigError, match="https://"):
        fetch_evidence_unauthenticated(url, b"n" * 16)
    with pytest.raises(ConfigError, match="https://"):
        provision_group_key(url, certificate_der=IDENTITY.certificate_der, group_key=b"k" * 32)


def test_a_refused_nonce_is_a_refusal():
    with served(FakeService()) as port, pytest.raises(RefusedError) as caught:
        fetch_evidence_unauthenticated(f"https://127.0.0.1:{port}", b"short")

    assert caught.value.code == "request-invalid"


def test_a_closed_port_is_unreachable():
    with served(FakeService()) as port:
        pass
    with pytest.raises(UnreachableError):
        fetch_evidence_unauthenticated(f"https://127.0.0.1:{port}", b"n" * 16)


# ---- over scripted nodes --------------------------------------------------------------------
@pytest.mark.parametrize(
    "ending",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut off"),
        problem("not-executed", reason="no-leader", leader=None),
        problem("not-ready", reason="starting"),
        problem("overloaded"),
        problem("outcome-unknown", reason="deadline"),
    ],
    ids=repr,
)
def test_a_write_goes_on_to_the_next_node_with_the_same_key(scripted, ending):
    client, script, _ = scripted(ending, ending, OK)
    client.execute({"op": "x"})

    keys = {request.headers["idempotency-key"] for request in script.asked}
    assert [request.url.port for request in script.asked] == [1, 2, 1]
    assert len(keys) == 1
    assert len({request.content for request in script.asked}) == 1


def test_every_write_has_a_key_of_its_own(scripted):
    client, script, _ = scripted(OK)
    client.execute(1)
    client.execute(1)
    client.execute(1, idempotency_key="mine")

    keys = [request.headers["idempotency-key"] for request in script.asked]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


def test_reads_carry_no_key(scripted):
    client, script, _ = scripted(schemas.QueryResult(result=None, at=schemas.At(term=1, index=1), age_ms=0))
    client.query(1)

    assert "idempotency-key" not in script.asked[0].headers


def test_the_node_that_answered_is_asked_first_next_time(scripted):
    client, script, _ = scripted(httpx.ConnectError("refused"), OK)
    client.execute(1)
    client.execute(2)

    assert [request.url.port for request in script.asked] == [1, 2, 2]


@pytest.mark.parametrize(
    "code",
    [
        "request-invalid",
        "role-missing",
        "command-failed",
        "idempotency-key-reused",
        "not-found",
    ],
)
def test_a_final_refusal_is_not_repeated(scripted, code):
    client, script, _ = scripted(problem(code))
    with pytest.raises(RefusedError) as caught:
        client.execute(1)

    assert caught.value.code == code
    assert len(script.asked) == 1


def test_a_write_that_may_have_happened_ends_as_unknown_with_its_key(scripted):
    client, script, clock = scripted(httpx.ReadError("reset"), problem("not-executed", reason="no-leader"))
    with pytest.raises(OutcomeUnknownError) as caught:
        client.execute(1)

    assert caught.value.idempotency_key == script.asked[0].headers["idempotency-key"]
    assert clock.now < 6


def test_a_write_that_surely_did_not_happen_is_reported_as_such(scripted):
    client, _, _ = scripted(httpx.ConnectError("refused"), problem("not-executed", reason="no-leader"))
    with pytest.raises(NotExecutedError) as caught:
        client.execute(1)

    assert caught.value.problem.reason == "no-leader"


def test_a_read_without_an_answer_is_unreachable_never_unknown(scripted):
    client, _, _ = scripted(httpx.ReadError("reset"))
    with pytest.raises(UnreachableError):
        client.group()


def test_a_node_that_fails_within_a_write_leaves_it_unknown_and_a_read_refused(scripted):
    client, script, _ = scripted(problem("internal-error"))
    with pytest.raises(OutcomeUnknownError):
        client.execute(1)
    with pytest.raises(RefusedError):
        client.group()

    assert len(script.asked) == 2


def test_after_session_loss_nothing_is_repeated(scripted):
    client, script, _ = scripted(problem("outcome-unknown", reason="session-lost"))
    with pytest.raises(OutcomeUnknownError):
        client.execute(1)

    assert len(script.asked) == 1


def test_it_backs_off_between_rounds_not_within_one(scripted):
    client, script, clock = scripted(*[httpx.ConnectError("refused")] * 6, OK, nodes=3)
    client.execute(1)

    assert len(script.asked) == 7
    assert clock.pauses == [0.05, 0.1]


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"term": "x", "index": 1, "result": 1}', b"\xff"])
def test_an_answer_of_another_form_is_an_error_of_its_own(scripted, answer):
    client, _, _ = scripted(answer)
    with pytest.raises(AnswerInvalidError):
        client.execute(1)


def test_an_error_that_is_no_problem_document_is_an_error_of_its_own(scripted):
    client, _, _ = scripted(httpx.Response(502, content=b"<html>"))
    with pytest.raises(AnswerInvalidError, match="502"):
        client.get("a")


def test_a_write_answered_by_another_program_may_have_happened_and_its_key_is_reported(scripted):
    client, script, _ = scripted(httpx.Response(502, content=b"<html>"))
    with pytest.raises(OutcomeUnknownError, match="502") as caught:
        client.execute(1)

    assert caught.value.idempotency_key == script.asked[0].headers["idempotency-key"]


@pytest.mark.parametrize(
    "result", [None, 7, {}, {"item": {"key": 1}}, {"item": {"key": "a", "value_b64": "?"}}]
)
def test_a_group_of_another_machine_is_noticed(scripted, result):
    client, _, _ = scripted(schemas.QueryResult(result=result, at=schemas.At(term=1, index=1), age_ms=0))
    with pytest.raises(AnswerInvalidError):
        client.get("a")


def test_an_answer_without_end_is_cut_off(scripted, monkeypatch):
    monkeypatch.setattr("node.client.channel.RESPONSE_BYTES_MAX", 10)
    client, _, _ = scripted(OK)
    with pytest.raises(AnswerInvalidError, match="more than 10 bytes"):
        client.execute(1)


# ---- set-up ------------------------------------------------------------------------------------
@pytest.mark.parametrize("urls", [[], ["http://localhost:1"], ["localhost:1"]])
def test_only_https_is_used(ca, urls):
    with pytest.raises(ConfigError, match="https://"):
        BondstoneClient(urls, token=TOKEN, ca=ca)


def test_a_missing_or_empty_ca_file_is_a_configuration_error(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(ConfigError, match="nowhere"):
        BondstoneClient(["https://a"], token=None, ca=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no PEM certificate"):
        BondstoneClient(["https://a"], token=None, ca=tmp_path / "empty")


def test_an_executed_write_whose_results_are_no_longer_kept_is_reported_as_that(scripted):
    kept = schemas.AlreadyExecuted(term=3, index=7, digest="ab" * 32, size=5000)
    answer = httpx.Response(208, content=msgspec.json.encode(kept))
    client, script, _ = scripted(httpx.ReadError("reset"), answer)
    with pytest.raises(AlreadyExecutedError, match="executed at 3:7") as caught:
        client.execute({"op": "put", "key": "k", "value": "v", "prev": True})

    assert caught.value.answer == kept
    assert len({request.headers["idempotency-key"] for request in script.asked}) == 1
