"""Telling whoever sends that the queue is closed, and until when: a line in the sender's log."""

from __future__ import annotations

import logging

from gpu_mesh.services import windows
from gpu_mesh.services.gates import MANUAL, REALTIME, Closures, read_closures
from gpu_mesh.settings import Settings
from gpu_mesh.store import availability, gates
from gpu_mesh.store.availability import Outage
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["Notices"]

logger = logging.getLogger(__name__)

#: Reasons that come and go with each job: nobody needs to hear of them.
_PASSING = (REALTIME,)


class Notices:
    """One sender's: it looks when it looks for the broker anyway, and says the same of a queue once."""

    def __init__(self) -> None:
        self._closures: Closures | None = None
        #: While nobody can do realtime work, as far as this sender knows.
        self.outage: Outage | None = None
        self._told: dict[str, str] = {}

    def look(self, settings: Settings, *, timeout_s: float) -> None:
        """See that Redis lets us in, and what is closed. Raises BrokerUnavailable or BrokerRefused in that time."""
        with mapped_errors(settings), connect(settings, timeout_s=timeout_s, retries=0) as client:
            self.outage = availability.outage(client)
            self._closures = read_closures(client, settings, passing=False) if gates.all_gates(client) else None

    def tell(self, queue: object) -> None:
        """Warn if the queue is closed to the whole mesh: what was sent waits."""
        found = [] if self._closures is None or not isinstance(queue, str) else self._closures.of(queue)
        closed = [gate for gate in found if gate.scope == gates.MESH and gate.reason not in _PASSING]
        if self._closures is None or not closed:
            self._told.pop(str(queue), None)
            return
        told = f"{queue}: {', '.join(map(self._closures.words, closed))}; what is sent waits"
        if (command := _command(self._closures, closed)) is not None:
            told += f" (`{command}` opens it now)"
        if self._told.get(str(queue)) != told:
            self._told[str(queue)] = told
            logger.warning(told, extra={"action": "closed"})


def _command(closures: Closures, closed: list[gates.Gate]) -> str | None:
    """What an operator would type, or None where no command opens it."""
    reasons = {gate.reason for gate in closed}
    if not reasons <= {MANUAL, windows.REASON}:
        return None
    command = f"gpu-mesh resume {closed[0].queue}"
    window = next((gate for gate in closed if gate.reason == windows.REASON), None)
    if window is None:
        return command
    # Of a day that is not today the clock time would be taken for the next one.
    if window.until is None or window.until - closures.now > 86_400:
        return f"{command} --until 2h"
    return f"{command} --until {closures.clock_time(window.until)}"
