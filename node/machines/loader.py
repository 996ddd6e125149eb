"""From the name in a configuration to a state machine."""

import importlib
from dataclasses import dataclass
from typing import Final

from node.errors import ConfigError
from node.machines.base import StateMachine
from node.machines.counter import Counter
from node.machines.kv import KeyValue
from node.machines.noop import NoOp

BUILT_IN: Final[dict[str, type[StateMachine]]] = {"kv": KeyValue, "counter": Counter, "noop": NoOp}
SIGNATURE_CHARACTERS_MAX: Final = 200
VERSION_MAX: Final = 65_535
_KEY: Final = "group.state_machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """Which machines a process may load besides the built-in ones.

    A machine is code. The configuration that names one comes from the host, so a process whose measurement is
    to mean something loads only code that was measured with it.
    """

    named: frozenset[str] = frozenset()
    """As ``module:Class``: those that an image's recipe names, and which are measured with the image."""
    importable: bool = False
    """Whatever the process can import: what runs is then whatever the configuration's author chose."""

    def measured(self, name: str) -> bool:
        """Return whether a machine comes with bondstone or with the image, not from wherever it is found."""
        return name in BUILT_IN or name in self.named


BUILT_IN_ONLY: Final = Machines()
IMPORTABLE: Final = Machines(importable=True)


def load_machine(name: str, machines: Machines) -> StateMachine:
    """Return a new machine: a built-in one by its name, or a user's class as ``module:Class``.

    Raises:
        ConfigError: no such machine, or none that this process may load; the message says what to change.
            Nothing was imported for a name that may not be loaded.
    """
    machine_class = BUILT_IN.get(name)
    if machine_class is None:
        machine_class = _import_class(name, machines)
    try:
        machine = machine_class()
        signature, family, versions = machine.signature, machine.family, machine.versions
    except Exception as exc:
        raise ConfigError(f"{_KEY}: {name} cannot be made without arguments: {exc}") from exc
    if not isinstance(signature, str) or not 0 < len(signature) <= SIGNATURE_CHARACTERS_MAX:
        raise ConfigError(
            f"{_KEY}: the signature of {name} must be text of 1 to {SIGNATURE_CHARACTERS_MAX} characters"
        )
    if not isinstance(family, str) or not 0 < len(family) <= SIGNATURE_CHARACTERS_MAX:
        raise ConfigError(
            f"{_KEY}: the family of {name} must be text of 1 to {SIGNATURE_CHARACTERS_MAX} characters"
        )
    known = isinstance(versions, range) and versions.step == 1 and len(versions) > 0
    if not known or not 1 <= versions[0] <= versions[-1] <= VERSION_MAX:
        raise ConfigError(
            f"{_KEY}: the versions of {name} must be a range of numbers from 1 to {VERSION_MAX}, "
            "such as range(1, 2) for version 1 alone"
        )
    return machine


def require_loadable(name: str, machines: Machines) -> None:
    """Raise unless a machine of this name may be loaded. Nothing is imported for it.

    Raises:
        ConfigError: naming what may be.
    """
    if machines.importable or machines.measured(name):
        return
    loadable = ", ".join(sorted({*BUILT_IN, *machines.named}))
    raise ConfigError(
        f"{_KEY}: {name!r} may not be loaded here, where no code runs that was not measured with"
        f" the image: it is one of {loadable}, or is named in the recipe of the image"
    )


def _import_class(name: str, machines: Machines) -> type[StateMachine]:
    module_name, colon, class_name = name.partition(":")
    if not colon or not module_name or not class_name:
        raise ConfigError(
            f"{_KEY}: {name!r} is neither one of {', '.join(sorted(BUILT_IN))} nor of the form module:Class"
        )
    require_loadable(name, machines)
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
