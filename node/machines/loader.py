"""From the name in a configuration to a state machine."""

import importlib
from typing import Final

from node.errors import ConfigError
from node.machines.base import StateMachine
from node.machines.counter import Counter
from node.machines.kv import KeyValue
from node.machines.noop import NoOp

BUILT_IN: Final[dict[str, type[StateMachine]]] = {"kv": KeyValue, "counter": Counter, "noop": NoOp}
SIGNATURE_CHARACTERS_MAX: Final = 200
_KEY: Final = "group.state_machine"


def load_machine(name: str) -> StateMachine:
    """Return a new machine: a built-in one by its name, or a user's class as ``module:Class``.

    Raises:
        ConfigError: no such machine; the message says what to change.
    """
    machine_class = BUILT_IN.get(name)
    if machine_class is None:
        machine_class = _import_class(name)
    try:
        machine = machine_class()
        signature = machine.signature
    except Exception as exc:
        raise ConfigError(f"{_KEY}: {name} cannot be made without arguments: {exc}") from exc
    if not isinstance(signature, str) or not 0 < len(signature) <= SIGNATURE_CHARACTERS_MAX:
        raise ConfigError(
            f"{_KEY}: the signature of {name} must be text of 1 to {SIGNATURE_CHARACTERS_MAX} characters"
        )
    return machine


def _import_class(name: str) -> type[StateMachine]:
    module_name, colon, class_name = name.partition(":")
    if not colon or not module_name or not class_name:
        raise ConfigError(
            f"{_KEY}: {name!r} is neither one of {', '.join(sorted(BUILT_IN))} nor of the form module:Class"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as exc:
        raise ConfigError(
            f"{_KEY}: cannot import {module_name}: {exc}; is it installed in the node's environment?"
        ) from exc
    found = getattr(module, class_name, None)
    if found is None:
        raise ConfigError(f"{_KEY}: the module {module_name} has no {class_name}")
    if not isinstance(found, type) or not issubclass(found, StateMachine):
        raise ConfigError(f"{_KEY}: {name} is not a subclass of node.machines.base.StateMachine")
    return found
