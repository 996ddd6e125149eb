"""What a node shows of its memory: every part, who is over the mark, and why a write was refused."""

from node.api import schemas
from node.api.views import group_response
from node.cli import status
from node.raft.budget import Budget, MemoryReported, MemoryUse
from node.raft.types import NotExecuted
from node.tokens import AccessRole
from tests.node.api.fakes import ME, PEER, FakeService, call

ADMIN = AccessRole.ADMIN


def warnings(service):
    shown = group_response(service.group(), mock=True)
    return {one.code: one.message for one in shown.warnings}


def test_every_part_of_the_memory_is_shown():
    memory = group_response(FakeService().group(), mock=True).memory

    assert (memory.budget, memory.mark, memory.store_quota) == (1000, 875, 300)
    parts = (memory.log, memory.kept_results, memory.keys, memory.store, memory.snapshots, memory.fetched)
    assert parts == (10, 20, 30, 40, 50, 60)
    assert memory.buffers == 70
    assert memory.used == sum(parts) + 70


def test_a_leader_warns_of_the_members_for_which_it_refuses_writes():
    reported = MemoryReported(950, Budget(1000), 0)
    service = FakeService(pressed=((PEER, reported),))

    assert warnings(service)["memory-nearly-full"].startswith(
        f"{PEER.name} uses 950 of its memory budget of 1000"
    )


def test_a_node_that_is_over_its_mark_warns_of_itself():
    assert "memory-nearly-full" not in warnings(FakeService())
    service = FakeService(memory=MemoryUse(900, 0, 0, 0, 0, 0, 0))

    assert warnings(service)["memory-nearly-full"].startswith(f"{ME.name} uses 900 of")
    service.pressed = ((ME, MemoryReported(900, Budget(1000), 0)),)
    shown = group_response(service.group(), mock=True).warnings
    assert [one.code for one in shown].count("memory-nearly-full") == 1


def test_the_parts_are_metrics():
    text = call(FakeService(), "GET", "/metrics", role=ADMIN).body.decode()

    for line in (
        'bondstone_memory_bytes{part="log"} 10.0',
        'bondstone_memory_bytes{part="kept_results"} 20.0',
        'bondstone_memory_bytes{part="keys"} 30.0',
        'bondstone_memory_bytes{part="store"} 40.0',
        'bondstone_memory_bytes{part="snapshots"} 50.0',
        'bondstone_memory_bytes{part="fetched"} 60.0',
        'bondstone_memory_bytes{part="buffers"} 70.0',
        "bondstone_memory_budget_bytes 1000.0",
        "bondstone_memory_mark_bytes 875.0",
        "bondstone_store_quota_bytes 300.0",
        "bondstone_memory_pressed 0.0",
    ):
        assert line in text.splitlines()


def test_the_problem_of_a_refused_write_says_whose_memory_how_much_and_what_to_do():
    detail = "the memory of b is nearly full: it uses 9 of 10 bytes; try again in a while"
    service = FakeService(end_with=NotExecuted("overloaded", PEER, detail))
    command = {"op": "put", "key": "a", "value": "b"}
    reply = call(service, "POST", "/v1/commands", role=ADMIN, json_body={"command": command})

    assert (reply.status, reply.json["code"], reply.json["reason"]) == (503, "not-executed", "overloaded")
    assert detail in reply.json["detail"]


def test_bondstone_status_shows_the_parts(capsys):
    shown = group_response(FakeService().group(), mock=True)
    status._print(shown, schemas.Members(members=[]), schemas.Bonds(bonds=[], mock=True))

    assert "memory   0.0 of 0.0 MB: store" in capsys.readouterr().out.replace("\n", " ")
