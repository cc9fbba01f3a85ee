"""What a job leaves in its pool child is cleaned up before the next one comes (SPEC P7): memory, processes, not models.

Between two jobs nothing of a job's may be left but what the process had before it: reference cycles and the caches of
frameworks are freed, child processes killed as a tree, also those that detached themselves, and what belongs to the
process itself is put back. Threads cannot be ended; they are named once. A clean-up that fails is logged and fails no
job.
"""

from __future__ import annotations

import gc
import logging
import mmap
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
from billiard import current_process
from celery.signals import task_postrun, task_prerun, worker_process_init

from workers import kinship
from workers.lifeline import adopt_orphans
from workers.surroundings import Surroundings

__all__ = ["Cleaner"]

logger = logging.getLogger(__name__)

#: Collecting may cost a job one part in so many of the time since the last collection …
SELDOM = 100
#: … unless the process has grown by so many pages meanwhile (4 KiB each as a rule: 16 MiB).
GROWN_PAGES = 4096
#: How long killed processes are waited for, s.
END_S = 5.0
#: Commands of Python's own helpers, which serve all jobs: those that keep account of shared memory …
TRACKERS = re.compile(
    r"from (multiprocessing|billiard)\.(resource|semaphore)_tracker import|\.loky\.\S*resource_tracker"
)
#: … and those that fork what jobs ask for: what is below them is a job's.
FORKERS = re.compile(r"from (multiprocessing|billiard)\.forkserver import")


class Cleaner:
    """Of one pool child."""

    def __init__(self) -> None:
        self._before: frozenset[int] = frozenset()
        self._threads: set[int | None] = set()
        self._cost_s = 0.0
        self._collected_at = -float("inf")
        self._collected_pages = 0
        self._surroundings: Surroundings | None = None

    def begin(self) -> None:
        """A job begins: what is there now is not its own."""
        # At the first one: the pool sets its handlers after the process is initialised.
        self._surroundings = self._surroundings or Surroundings()
        self._before = frozenset(kinship.below(os.getpid(), kinship.tree())) if kinship.has_children() else frozenset()
        self._threads = {thread.ident for thread in threading.enumerate()}

    def end(self, job: str) -> None:
        """A job has ended, however it did."""
        for part in (self._restore, self._end_processes, self._name_threads, self._free_memory):
            try:
                part(job)
            except Exception:
                logger.exception("%s: not all cleaned up", job, extra={"action": "clean"})

    def _restore(self, job: str) -> None:
        if self._surroundings is not None and (changed := self._surroundings.restore()):
            logger.warning("%s changed its process, put back: %s", job, ", ".join(changed), extra={"action": "clean"})

    def _end_processes(self, job: str) -> None:
        if not kinship.has_children():
            return
        left = self._left()
        if living := [name for pid in left if (name := _living(pid))]:
            logger.warning("%s left processes behind, ended: %s", job, ", ".join(living), extra={"action": "clean"})
        until = time.monotonic() + END_S
        while left:
            kinship.end(left)
            if time.monotonic() >= until:
                logger.error("%s: processes %s survive SIGKILL", job, left, extra={"action": "abandon"})
                return
            if left := self._left():
                kinship.pause()

    def _left(self) -> list[int]:
        tree, own = kinship.tree(), os.getpid()
        commands = {pid: kinship.command(pid) for pid in tree.get(own, ())}
        trackers = {pid for pid, command in commands.items() if TRACKERS.search(command)}
        forkers = {pid for pid, command in commands.items() if FORKERS.search(command)}
        return kinship.below(own, tree, sparing=(self._before - forkers) | trackers, through=forkers)

    def _name_threads(self, job: str) -> None:
        if threading.active_count() <= len(self._threads):
            return
        left = [thread for thread in threading.enumerate() if thread.ident not in self._threads]
        if left:
            names = ", ".join(sorted(thread.name for thread in left))
            logger.warning("%s left threads running, which nobody can end: %s", job, names, extra={"action": "clean"})

    def _free_memory(self, job: str) -> None:
        caches = list(_caches())
        began = time.monotonic()
        soon = began - self._collected_at < SELDOM * self._cost_s
        if soon and not caches and _pages() - self._collected_pages < GROWN_PAGES:
            return
        gc.collect()
        for empty in caches:
            empty()
        self._collected_at = time.monotonic()
        self._cost_s = self._collected_at - began
        self._collected_pages = _pages()


def _caches() -> Iterator[Callable[[], Any]]:
    """How to empty the caches of the frameworks that are loaded; none is imported, no device initialised for it."""
    torch, mlx = sys.modules.get("torch"), sys.modules.get("mlx.core")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        yield cuda.empty_cache
    if torch is not None and torch.backends.mps.is_available():
        yield torch.mps.empty_cache
    clear = getattr(mlx, "clear_cache", None)
    if clear is not None:
        yield clear


def _living(pid: int) -> str | None:
    """Name and number; None for one that is dead and only not buried."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.name()} ({pid})"
    except psutil.Error:
        return None


def _pages() -> int:
    """How many pages of memory this process has in use."""
    try:
        # Opened anew: a job may close what it finds open.
        with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123
            return int(file.read(128).split()[1])
    except OSError:
        return int(psutil.Process().memory_info().rss) // mmap.PAGESIZE


_cleaner: Cleaner | None = None


@worker_process_init.connect
def start(**_: Any) -> None:
    """A pool child begins: all that it inherited is none of a job's, and no collection need look at it."""
    global _cleaner
    if not current_process().daemon:  # a solo pool: the job runs in the worker itself
        return
    kinship.mark()
    adopt_orphans()
    gc.freeze()
    _cleaner = Cleaner()


@task_prerun.connect
def begin(task: Any = None, **_: Any) -> None:
    """Not of a task that a job runs within itself."""
    if _cleaner is not None and not task.request.is_eager:
        _cleaner.begin()


@task_postrun.connect
def end(task: Any = None, task_id: str | None = None, **_: Any) -> None:
    """Also after an error: it comes last, whatever happened."""
    if _cleaner is not None and not task.request.is_eager:
        _cleaner.end(f"{task.name}[{task_id}]")
