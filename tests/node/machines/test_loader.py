"""A machine is found by its name, and every wrong name is refused with what to change."""

import sys

import pytest

from node.errors import ConfigError
from node.group_document import FAMILIES
from node.machines.base import StateMachine
from node.machines.counter import Counter
from node.machines.kv import KeyValue
from node.machines.loader import BUILT_IN, BUILT_IN_ONLY, IMPORTABLE, Machines, load_machine
from node.machines.noop import NoOp


@pytest.mark.parametrize(("name", "kind"), [("kv", KeyValue), ("counter", Counter), ("noop", NoOp)])
def test_built_in_machines_have_short_names(name, kind):
    assert type(load_machine(name, BUILT_IN_ONLY)) is kind


def test_every_load_is_a_machine_of_its_own():
    assert load_machine("kv", BUILT_IN_ONLY) is not load_machine("kv", BUILT_IN_ONLY)


def test_a_users_class_loads_by_import_string():
    loaded = load_machine("node.machines.counter:Counter", IMPORTABLE)

    assert type(loaded) is Counter


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A module that an interpreter finds, and a mark that it leaves once its code ran."""
    mark = tmp_path / "ran"
    (tmp_path / "planted_machine.py").write_text(
        "from pathlib import Path\nfrom node.machines.counter import Counter as Machine\n"
        f"Path({str(mark)!r}).touch()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    sys.modules.pop("planted_machine", None)


def test_no_code_is_imported_for_a_name_that_may_not_be_loaded(planted):
    for machines in (BUILT_IN_ONLY, Machines(named=frozenset({"node.machines.counter:Counter"}))):
        with pytest.raises(ConfigError, match="measured with the image"):
            load_machine("planted_machine:Machine", machines)
        assert not planted.exists()

    # The same name where anything may be imported: the code runs.
    load_machine("planted_machine:Machine", IMPORTABLE)
    assert planted.exists()


def test_a_machine_that_the_image_names_is_loaded_and_no_other_of_its_module():
    machines = Machines(named=frozenset({"node.machines.counter:Counter"}))

    assert type(load_machine("node.machines.counter:Counter", machines)) is Counter
    with pytest.raises(ConfigError, match="use one of collections, counter, kv, node"):
        load_machine("node.machines.counter:VALUE_MAX", machines)


class NeedsAnArgument(StateMachine):
    def __init__(self, argument):
        self.argument = argument

    @property
    def signature(self):
        return "x"

    def apply(self, command, context):
        raise NotImplementedError

    def query(self, query):
        raise NotImplementedError


class Several(Counter):
    family = "example.org/several"
    versions = range(2, 5)


@pytest.mark.parametrize(
    ("signature", "family", "version"),
    [
        ("bondstone/kv/v1", "bondstone/kv", 1),
        ("example.org/ledger/v12", "example.org/ledger", 12),
        ("example.org/ledger", "example.org/ledger", 1),
        ("example.org/ledger/v0", "example.org/ledger/v0", 1),
        ("/v3", "/v3", 1),
        ("v3", "v3", 1),
        ("ledger/v1/v2", "ledger/v1", 2),
    ],
)
def test_a_signature_names_family_and_version(signature, family, version):
    class Named(Counter):
        pass

    Named.signature = signature
    assert (Named().family, Named().versions) == (family, range(version, version + 1))


def test_a_machine_may_know_several_versions():
    loaded = load_machine(f"{__name__}:Several", IMPORTABLE)
    assert (loaded.family, loaded.versions) == ("example.org/several", range(2, 5))


@pytest.mark.parametrize(
    "versions", [range(0), range(2), range(1, 9, 2), range(3, 1, -1), range(1, 70_000), (1, 2), 1, None]
)
def test_versions_that_are_no_range_are_refused(versions, monkeypatch):
    monkeypatch.setattr(Several, "versions", versions)
    with pytest.raises(ConfigError, match="versions of"):
        load_machine(f"{__name__}:Several", IMPORTABLE)


@pytest.mark.parametrize("family", ["", "f" * 201, None, "example.org/\n"])
def test_a_family_that_is_no_text_is_refused(family, monkeypatch):
    monkeypatch.setattr(Several, "family", family)
    with pytest.raises(ConfigError, match="family of"):
        load_machine(f"{__name__}:Several", IMPORTABLE)


class Unsigned(Counter):
    signature = ""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("kvv", "neither one of collections, counter, kv, noop"),
        (":Counter", "module:Class"),
        ("node.machines.counter:", "module:Class"),
        ("no_such_module:X", "cannot import no_such_module"),
        ("node.machines.counter:Nope", "has no Nope"),
        ("node.machines.counter:VALUE_MAX", "not a subclass"),
        ("json:JSONDecoder", "not a subclass"),
        (f"{__name__}:NeedsAnArgument", "cannot be made without arguments"),
        (f"{__name__}:Unsigned", "signature"),
        ("node.machines.base:StateMachine", "cannot be made without arguments"),
    ],
)
def test_a_wrong_name_is_a_configuration_error_that_names_the_key(name, says):
    with pytest.raises(ConfigError) as caught:
        load_machine(name, IMPORTABLE)

    assert str(caught.value).startswith("group.state_machine: ")
    assert says in str(caught.value)


def test_a_group_document_names_the_families_that_the_machines_have():
    """A later version of a machine is in the same group, so its family must never change."""
    assert {name: load_machine(name, BUILT_IN_ONLY).family for name in BUILT_IN} == FAMILIES
