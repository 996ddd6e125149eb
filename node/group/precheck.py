"""What no state of the machine would take is refused before it costs every member a place in its log.

The machine judges again when it applies, equally everywhere; this is only the node that was asked sparing the
group what can be known beforehand (``StateMachine.check``).
"""

import logging

from node.machines.base import CommandError, StateMachine
from node.raft.events import Event, Execute
from node.raft.types import BATCH_ABORTED, Failed

logger = logging.getLogger(__name__)


def refused_beforehand(machine: StateMachine, event: Event) -> tuple[Failed, ...] | None:
    """Return what would become of the commands in ``event``, if one of them is refused whatever the state.

    None: only the log can tell; or they are no commands of the machine.
    """
    if not isinstance(event, Execute) or event.system:
        return None
    for sub, command in enumerate(event.commands):
        failed = _failed(machine, command)
        if failed is not None:
            results = [Failed(BATCH_ABORTED, f"command {sub} of the batch was refused")] * len(event.commands)
            results[sub] = failed
            return tuple(results)
    return None


def _failed(machine: StateMachine, command: object) -> Failed | None:
    try:
        machine.check(command)
    except CommandError as exc:
        return Failed(exc.code, exc.message)
    except Exception as exc:
        logger.exception("the machine's check failed")
        return Failed(
            "check-raised", f"the machine raised {type(exc).__name__} instead of judging the command"
        )
    return None
