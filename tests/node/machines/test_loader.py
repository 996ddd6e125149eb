"""A machine is found by its name, and every way of getting the name wrong says what to change."""

import pytest

from node.errors import ConfigError
from node.machines.base import StateMachine
from node.machines.counter import Counter
from node.machines.kv import KeyValue
from node.machines.loader import load_machine
from node.machines.noop import NoOp


@pytest.mark.parametrize(("name", "kind"), [("kv", KeyValue), ("counter", Counter), ("noop", NoOp)])
def test_built_in_machines_have_short_names(name, kind):
    assert type(load_machine(name)) is kind


def test_every_load_is_a_machine_of_its_own():
    assert load_machine("kv") is not load_machine("kv")


def test_a_users_class_loads_by_import_string():
    loaded = load_machine("node.machines.counter:Counter")

    assert type(loaded) is Counter


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


class Unsigned(Counter):
    signature = ""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("kvv", "neither one of counter, kv, noop"),
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
        load_machine(name)

    assert str(caught.value).startswith("group.state_machine: ")
    assert says in str(caught.value)
