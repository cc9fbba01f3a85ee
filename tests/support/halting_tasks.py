"""A task whose sending halts where its first argument says, while that file is there: for a sender that is to die."""

from __future__ import annotations

from pathlib import Path

from celery import shared_task
from waiting import wait_gone

from gpu_mesh import GpuTask

HALT_S = 30.0


class HaltingTask(GpuTask):
    abstract = True

    def apply_async(self, args=None, kwargs=None, **options):
        """Halt before it is sent while `<path>.before` is there, after it while `<path>.after` is."""
        self._halt(f"{args[0]}.before")
        sent = super().apply_async(args, kwargs, **options)
        self._halt(f"{args[0]}.after")
        return sent

    def _halt(self, path):
        if Path(path).exists():
            Path(f"{path}.met").touch()
            wait_gone(path, HALT_S)


@shared_task(base=HaltingTask, name="halting.task")
def task(path):
    return path
