"""Loads the state machine that a configuration names."""

import importlib
from dataclasses import dataclass
from typing import Final

from node.errors import ConfigError
from node.machines.base import StateMachine
from node.machines.collections.machine import CollectionsMachine
from node.machines.counter import Counter
from node.machines.kv import KeyValue
from node.machines.noop import NoOp

BUILT_IN: Final[dict[str, type[StateMachine]]] = {
    "kv": KeyValue,
    "collections": CollectionsMachine,
    "counter": Counter,
    "noop": NoOp,
}
SIGNATURE_CHARACTERS_MAX: Final = 200
VERSION_MAX: Final = 65_535
_KEY: Final = "group.state_machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """Which machines a process may load besides the built-in ones.

    A machine is code, and the configuration that names one comes from the host. So a process whose
    measurement shall mean something loads only code that was measured with it.
    """

    named: frozenset[str] = frozenset()
    """As ``module:Class``: those that an image's recipe names; they are measured with the image."""
    importable: bool = False
    """Any class that the process can import. The configuration's author then chooses the code that runs."""

    def measured(self, name: str) -> bool:
        """Return whether a machine comes with bondstone or with the image, and not from another place."""
        return name in BUILT_IN or name in self.named


BUILT_IN_ONLY: Final = Machines()
IMPORTABLE: Final = Machines(importable=True)


def load_machine(name: str, machines: Machines) -> StateMachine:
    """Return a new machine: a built-in one by its name, or a user's class as ``module:Class``.

    Raises:
        ConfigError: there is no such machine, or this process may not load it; the message names the change
            to make. Nothing is imported for a name that may not be loaded.
    """
    machine_class = BUILT_IN.get(name)
    if machine_class is None:
        machine_class = _import_class(name, machines)
    try:
        machine = machine_class()
        _ = machine.signature, machine.family, machine.versions, machine.state_sync().signature
    except Exception as exc:
        raise ConfigError(f"{_KEY}: {name} cannot be made without arguments: {exc}") from exc
    require_named(machine, f"{_KEY}: the %s of {name}")
    return machine


def require_named(machine: StateMachine, what: str) -> None:
    """Raise unless the machine has a valid signature, family, versions and state sync, which peers depend on.

    Args:
        machine: in any state.
        what: how messages begin, with ``%s`` for ``signature``, ``family``, ``versions`` or ``state sync``.

    Raises:
        ConfigError: the machine's signature, family, versions or state sync are not valid.
    """
    sync = machine.state_sync()
    for name, text in (
        ("signature", machine.signature),
        ("family", machine.family),
        ("state sync", sync.signature),
    ):
        if not isinstance(text, str) or not 0 < len(text) <= SIGNATURE_CHARACTERS_MAX:
            raise ConfigError(f"{what % name} must be text of 1 to {SIGNATURE_CHARACTERS_MAX} characters")
        if any(character < " " or character == "\x7f" for character in text):
            raise ConfigError(f"{what % name} must have no control characters")
    if sync.takes_snapshots and not machine.offers_snapshots:
        raise ConfigError(
            f"{what % 'state sync'} takes snapshots, and the machine offers none: override `snapshot` and"
            " `restore`, or `freeze` and `thaw`"
        )
    versions = machine.versions
    known = isinstance(versions, range) and versions.step == 1 and len(versions) > 0
    if not known or not 1 <= versions[0] <= versions[-1] <= VERSION_MAX:
        raise ConfigError(
            f"{what % 'versions'} must be a range of numbers from 1 to {VERSION_MAX}, "
            "such as range(1, 2) for version 1 alone"
        )


def require_loadable(name: str, machines: Machines) -> None:
    """Raise unless a machine of this name may be loaded. Nothing is imported for it.

    Raises:
        ConfigError: it names the machines that may be loaded.
    """
    if machines.importable or machines.measured(name):
        return
    loadable = ", ".join(sorted({*BUILT_IN, *machines.named}))
    raise ConfigError(
        f"{_KEY}: {name!r} may not be loaded here, because only code that was measured with the"
        f" image runs here: use one of {loadable}, or name it in the recipe of the image"
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
