"""The demo's last scene but one: batch jobs on every device, a user who searches, and who makes room."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery import states
from celery.result import AsyncResult

from gpu_mesh.cli.demo_work import topics
from gpu_mesh.cli.output import console, table
from gpu_mesh.services import lookup
from gpu_mesh.settings import settings
from gpu_mesh.tasks.embeddings import embeddings

__all__ = ["make_room"]

#: How long each job works, and how long before the user comes, s.
WORK_S, AHEAD_S = 3.0, 1.0
#: Topics of the first job; of each further one some more.
TOPICS, MORE_TOPICS = 6, 3
SEARCH = "Who has to wait when a customer comes?"
#: How long the jobs may take to begin, s.
START_S = 30.0


def make_room(embedded: dict[str, Any], devices: int, result: Callable[[AsyncResult], Any]) -> None:
    """Keep so many devices busy with the vectors of `embedded`, search, and show which job made room and went on."""
    counts = [TOPICS + MORE_TOPICS * number for number in range(devices)]
    console.print("\nEvery device sorts the passages into topics, in ai-batch, when a user searches, in ai-realtime.\n")
    vectors, dimensions = embedded["vectors"], embedded["dimensions"]
    jobs = [topics.delay(vectors, dimensions, count, WORK_S) for count in counts]
    _await_starts(jobs)
    time.sleep(AHEAD_S)
    search = embeddings.apply_async([[SEARCH], embedded["model"]], queue="ai-realtime", priority=7)
    result(search)
    runs = [(count, result(job)["runs"]) for count, job in zip(counts, jobs, strict=True)]
    table(
        "Who made room",
        ("job", "run>", "device", "random starts>"),
        [
            (f"{count} topics", number, run["worker"], f"{run['first']}–{run['last']}")
            for count, each in runs
            for number, run in enumerate(each, 1)
        ],
        empty="",
    )
    waited_s = {task.id: task.waited_s for task in lookup.finished_tasks(settings(), limit=1000)}.get(search.id)
    made_room = sum(len(each) > 1 for _, each in runs)
    if made_room:
        console.print(
            f"\nNo device was idle. The search waited {waited_s or 0:.3f} s: {made_room} of {devices} jobs made room, "
            "and went on where it was."
        )
    else:
        console.print("\nA job ended just then: nobody had to make room.")


def _await_starts(jobs: list[AsyncResult]) -> None:
    deadline = time.monotonic() + START_S
    while any(job.state == states.PENDING for job in jobs) and time.monotonic() < deadline:
        time.sleep(0.01)
