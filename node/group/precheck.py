"""Refuses commands that the machine would refuse in every state, before they take space in each member's log.

The machine judges again when it applies, equally on every node. Here the node that received the request only
spares the group the commands whose refusal is certain beforehand (``StateMachine.check``).
"""

import logging

from node.machines.base import CommandError, StateMachine
from node.raft.events import Event, Execute
from node.raft.types import BATCH_ABORTED, Failed

logger = logging.getLogger(__name__)


def refused_beforehand(machine: StateMachine, event: Event) -> tuple[Failed, ...] | None:
    """Return the outcome of the commands in ``event``, if the machine refuses one of them in every state.

    None: the outcome depends on the log, or the commands are not the machine's.
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
