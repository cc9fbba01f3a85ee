"""Celery's prefork pool, which keeps its jobs when the broker's connection is lost."""

from __future__ import annotations

import gc
from typing import Any

from celery.concurrency import asynpool, prefork

__all__ = ["KeepingPool", "TaskPool"]


class KeepingPool(asynpool.AsynPool):
    """What runs the processes."""

    def did_start_ok(self) -> bool:
        """Whether no process has ended by itself since the start: the next one would too, and Celery ends the worker.

        One that was killed is replaced like any other, at the next look.
        """
        codes = [process.exitcode for process in self._pool]
        return not any(code is not None and code >= 0 for code in codes)

    def flush(self) -> None:
        """A connection was lost: finish what is half written, and keep all jobs.

        Celery drops those that no child has begun, for their messages are delivered again. Claims outlive the
        connection (DESIGN §6): a job dropped here would be held for ever, by a worker that claims no other.
        """
        waiting = [job for job in self._cache.values() if not job._accepted]
        unsent = tuple(self.outbound_buffer)
        for job in waiting:
            job._accepted = True
        try:
            super().flush()
        finally:
            self.outbound_buffer.extend(unsent)
            for job in waiting:
                # A child may have told meanwhile that it has begun.
                job._accepted = job._time_accepted is not None


class TaskPool(prefork.TaskPool):
    """What `worker_pool` names."""

    Pool: Any = KeepingPool

    def on_start(self) -> None:
        """Start the processes; what is loaded by now stays, and no collection goes through it any more.

        Celery collects before each fork: 0.15 s in which a job that had one killed to make room would wait.
        """
        gc.collect()
        gc.freeze()
        super().on_start()
