"""What each process of the mesh logs goes to this machine's log file as well, one line of JSON a record (SPEC H8)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from celery._state import get_current_task
from celery.signals import after_setup_logger, after_setup_task_logger, celeryd_init

from gpu_mesh.domain.loglines import as_line
from gpu_mesh.services.logfile import LogFile
from gpu_mesh.settings import Settings, settings

__all__ = ["ToFile", "log_file", "named", "to_file"]

#: What this process is called, as `gpu0@n`.
_process = "celery"


class ToFile(logging.Handler):
    """Writes records to a file; where that fails says so once, on standard error, and goes on."""

    def __init__(self, file: LogFile, given: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__()
        self._file = file
        self._given = given
        self._fails = False

    def emit(self, record: logging.LogRecord) -> None:
        """One line. Nothing that goes wrong here is the caller's business."""
        try:
            line = as_line(record, self._given())
            self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")
        except Exception as exc:  # noqa: BLE001  # logging never fails whoever logs
            if not self._fails:
                self._fails = True
                _warn(f"nothing is logged to {self._file.path} until it can be written again: {exc}")
            return
        self._fails = False

    def close(self) -> None:
        """Close the file too."""
        self._file.close()
        super().close()


def log_file(current: Settings) -> LogFile | None:
    """This machine's; None where GPU_MESH_LOG_FILE is `none`."""
    if current.log_file is None:
        return None
    path = current.state_dir / current.log_file
    return LogFile(path, days=current.log_days, max_bytes=current.log_max_mb * 1e6)


def named(process: str) -> None:
    """What this process is called in the log."""
    global _process
    _process = process


@cache
def to_file() -> ToFile | None:
    """This process's one handler; None where no file is wanted."""
    current = settings()
    file = log_file(current)
    return None if file is None else ToFile(file, lambda: _given(current.node_name))


def _given(node: str) -> dict[str, Any]:
    """What a record does not tell by itself."""
    found = {"node": node, "process": _process}
    task = get_current_task()
    if task is not None and task.request.id is not None:
        found |= {"task": task.request.id, "task_name": task.name}
    return found


def _warn(words: str) -> None:
    # Not what Celery puts in its place, which logs.
    if sys.__stderr__ is not None:
        sys.__stderr__.write(f"WARNING {words}\n")


@celeryd_init.connect
def _named_as_worker(sender: Any = None, **_: Any) -> None:
    named(str(sender))


@after_setup_logger.connect
@after_setup_task_logger.connect
def _attach(logger: Any = None, **_: Any) -> None:
    handler = to_file()
    if "beat" in sys.argv:
        named(f"beat@{settings().node_name}")
    if logger is not None and handler is not None and handler not in logger.handlers:
        logger.addHandler(handler)
