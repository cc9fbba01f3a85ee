"""What the jobs of processes that were killed left running: ended by the worker, or the supervisor, that adopts it
(SPEC P7)."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection

from gpu_mesh.services.scripts import guard
from workers import kinship
from workers.lifeline import adopt_orphans

__all__ = ["Orphans"]

logger = logging.getLogger(__name__)


class Orphans:
    """Of a worker's parent, or of a supervisor. Belongs to the thread that keeps the children."""

    def __init__(self) -> None:
        self._children: frozenset[int] | None = None
        self._some_left = False

    def adopt(self) -> None:
        """Become the parent of what dying descendants leave."""
        adopt_orphans()

    def look(self, children: Collection[int]) -> None:
        """End what is there of jobs of children that are no more; `children`: those that are kept.

        Costs nothing while they stay the same.
        """
        now = frozenset(children)
        if now == self._children and not self._some_left:
            return
        self._children = now
        try:
            self._some_left = self._end_left(now)
        except Exception:
            # The event loop's: it must go on.
            logger.exception("orphans not ended", extra={"action": "orphans"})

    def _end_left(self, children: Collection[int]) -> bool:
        """Whether there were any: they take a moment to end."""
        own, tree = os.getpid(), kinship.tree()
        tops = [pid for pid in tree.get(own, ()) if pid not in children and kinship.bears_mark(pid)]
        # It ends all that its script started, and itself.
        guards = [pid for pid in tops if guard.__file__ in kinship.command(pid)]
        left = [pid for top in tops if top not in guards for pid in (top, *kinship.below(top, tree))]
        if left:
            if not self._some_left:
                logger.warning(
                    "%d processes of a job that was killed are ended: %s", len(left), left, extra={"action": "orphans"}
                )
            kinship.end(left)
        return bool(left or guards)
