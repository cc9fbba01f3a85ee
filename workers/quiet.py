"""What the log leaves out: the mesh's own periodic work, a dozen lines a minute as long as it goes well."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from gpu_mesh.domain.queues import OWN_TASKS

__all__ = ["OwnWork", "quieten"]

#: Who tells at INFO that a task was sent, has come, has ended.
LOGGERS = ("celery.beat", "celery.worker.strategy", "celery.app.trace")


class OwnWork(logging.Filter):
    """Lets pass all but what is said at INFO of the mesh's own tasks; with a log level of DEBUG that too."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Celery gives the task's name last, or in a mapping."""
        if record.levelno != logging.INFO or logging.getLogger().isEnabledFor(logging.DEBUG):
            return True
        told = record.args
        name = told.get("name") if isinstance(told, Mapping) else told[-1] if told else None
        return not str(name).startswith(OWN_TASKS)


def quieten() -> None:
    """In every process that runs or sends them."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(OwnWork())
