"""Tasks that leave something behind, as the workers of the tests load them."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from celery import shared_task
from waiting import wait_gone

SLEEP = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"]
#: Longest wait of a task that holds, s.
HOLD_S = 60.0


def spawn() -> list[int]:
    """A child, one in a session of its own, and one that has lost its parent and all it had of it."""
    found = [subprocess.Popen(SLEEP).pid, subprocess.Popen(SLEEP, start_new_session=True).pid]
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.setsid()
        orphan = subprocess.Popen(SLEEP, env={}, stdin=subprocess.DEVNULL, start_new_session=True)
        os.write(writer, str(orphan.pid).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    found.append(int(os.read(reader, 32)))
    return found


@shared_task(bind=True)
def leave(self, path, how="return"):
    """Write the pids of three processes to `path` and leave them: by `return`, by `raise`, or `hold` until ended."""
    part = Path(f"{path}.part")
    part.write_text(json.dumps([os.getpid(), *spawn()]))
    part.rename(path)
    if how == "raise":
        raise ValueError("as it was told")
    if how == "hold":
        threading.Event().wait(HOLD_S)


@shared_task
def leave_by_exit(code):
    """As the main function of a command does."""
    sys.exit(code)


@shared_task
def deaf(path):
    """Do not hear of a cancel; the pid to `path`."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    part = Path(f"{path}.part")
    part.write_text(json.dumps([os.getpid()]))
    part.rename(path)
    threading.Event().wait(HOLD_S)


@shared_task
def leave_memory(megabytes):
    """Leave a cycle of that size; what this process had in use before, MB."""
    before = resident_mb()
    cycle = {"data": bytearray(int(megabytes * 1e6))}
    cycle["self"] = cycle
    return before


@shared_task
def resident():
    """What this process has in use, MB, and whether collecting finds anything."""
    return resident_mb(), gc.get_freeze_count()


@shared_task
def leave_thread(path):
    """A thread that lives while the file does."""
    Path(path).touch()
    threading.Thread(target=wait_gone, args=(path, HOLD_S), name="left-behind", daemon=True).start()


@shared_task
def change_process():
    """Change what belongs to the whole process, and fail; a timer that would end it soon is running."""
    os.chdir("/")
    os.umask(0o777)
    os.environ["LEFT_BEHIND"] = "yes"
    del os.environ["GPU_MESH_INCLUDE"]
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    signal.alarm(3600)
    resource.setrlimit(resource.RLIMIT_AS, (2**40, resource.getrlimit(resource.RLIMIT_AS)[1]))
    raise ValueError("as it was told")


@shared_task
def process():
    """What belongs to the whole process; a dict."""
    umask = os.umask(0)
    os.umask(umask)
    return {
        "folder": str(Path.cwd()),
        "umask": umask,
        "environment": dict(os.environ),
        "handlers": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "timer": signal.alarm(0),
        "memory": resource.getrlimit(resource.RLIMIT_AS),
        "pid": os.getpid(),
    }


@shared_task
def want_memory():
    """More than there is."""
    return len(bytearray(2**62))


@shared_task
def keep_helpers():
    """Start what Python keeps for all jobs; the pids of its resource tracker and its fork server, and of a child."""
    from multiprocessing import forkserver, resource_tracker

    resource_tracker.ensure_running()
    forkserver.ensure_running()
    return resource_tracker._resource_tracker._pid, forkserver._forkserver._forkserver_pid, _forked()


def _forked() -> int:
    """A process that the fork server has forked."""
    import billiard

    billiard.current_process()._config["daemon"] = False
    child = billiard.get_context("forkserver").Process(target=time.sleep, args=(HOLD_S,))
    child.start()
    return child.pid


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6
