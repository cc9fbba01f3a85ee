"""The `custom` and `training` task types: a script of the operator's, by its name (SPEC T, docs/scripts.md).

    custom.delay("report.py", {"month": 11}).get()  →  what the script printed as {"result": …}
    training.apply_async(["train.py", {"data": "a.npz"}], requirements={"epochs": 20, "batch_size": 64})

The script runs apart from the worker and ends with it, whatever ends the worker.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from typing import Any

from celery import shared_task, states
from celery.signals import task_postrun

from gpu_mesh.domain.device import DeviceKind
from gpu_mesh.errors import CheckpointTooLarge, ScriptFailed, ScriptRefused, ScriptResultTooLarge, ScriptTimedOut
from gpu_mesh.services.board import BOARD
from gpu_mesh.services.scripts import files, output
from gpu_mesh.services.scripts.environment import TASK_ID, environment
from gpu_mesh.services.scripts.process import Ended, Run, RunSpec, argv_of
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store.claims import CLAIM_HEADER
from gpu_mesh.tasks.base import GpuTask
from gpu_mesh.tasks.checkpointing import Preempted

__all__ = ["RESERVED", "custom", "training"]

logger = logging.getLogger(__name__)

#: What the mesh itself adds to a script's arguments.
RESERVED = frozenset({"checkpoint_dir", "restored"})
#: Progress is told at most so often, s.
PROGRESS_EVERY_S = 0.5
#: How often the log says how many lines it left out, s.
DROPPED_EVERY_S = 10.0
#: Bytes in a MB, and what a message's own frame adds to its value.
_MB, _FRAME_BYTES = 1_000_000, 64
_TRAINING = "training"


@shared_task(name="custom", bind=True)
def custom(self: GpuTask, script: str, args: dict[str, Any] | None = None) -> Any:
    """Run a script with `args`, a JSON object, at its standard input; the result it printed, None where it did not.

    Raises InvalidSetting where this node has no scripts, ScriptRefused for the name or the arguments, ScriptFailed,
    ScriptTimedOut, ScriptResultTooLarge, and what `self.checkpoint` raises.
    """
    return _run(self, script, args, settings().custom_limit_s)


@shared_task(name=_TRAINING, bind=True)
def training(
    self: GpuTask,
    script: str,
    args: dict[str, Any] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
) -> Any:
    """As `custom`, for long work that is stopped and goes on: with a folder for its files, asked to save at a stop.

    `epochs` and `batch_size` are handed to the script, as free fields of the requirements of these names are.
    """
    own = {"epochs": epochs, "batch_size": batch_size}
    return _run(self, script, args, settings().training_limit_s, {k: v for k, v in own.items() if v is not None})


@task_postrun.connect
def drop_files(task: Any = None, task_id: str | None = None, state: str | None = None, **_: Any) -> None:
    """Forget the files of a training that succeeded. After anything else they stay: a later run may go on."""
    if state == states.SUCCESS and isinstance(task, GpuTask) and task.name == _TRAINING and task_id:
        files.drop_checkpoint_folder(settings(), task_id)


def _run(task: GpuTask, script: str, args: object, limit_s: float, fields: dict[str, Any] | None = None) -> Any:
    current = settings()
    if task.device is not None and task.device.kind is DeviceKind.ENDPOINT:
        remedy = "a script runs on the device's own machine: leave it out"
        raise ScriptRefused("remote", True, remedy)
    path = files.find(current.scripts_dir, script)
    given = {**task.requirements.extra, **(fields or {}), **_checked(args)}
    is_training = task.name == _TRAINING
    folder = str(files.checkpoint_folder(current, task.request.id or f"direct-{os.getpid()}")) if is_training else None
    arguments = {**given, "restored": task.restored, **({"checkpoint_dir": folder} if folder else {})}
    chosen = [limit for limit in task.request.timelimit or () if limit]
    largest_mb = max(current.script_result_max_mb, current.checkpoint_max_mb)
    spec = RunSpec(
        argv=argv_of(path),
        env=_environment(task, current, script, folder, min(chosen, default=limit_s)),
        arguments=_json_of(arguments),
        parent=files.run_folder(current),
        # Celery enforces the caller's own.
        limit_s=None if chosen else limit_s,
        grace_s=current.script_grace_s,
        line_bytes=int(largest_mb * _MB) + _FRAME_BYTES,
    )
    with Run(spec) as run:
        conversation = _Conversation(task, script, run, resumes=is_training or arguments["restored"] is not None)
        for line in run.lines():
            conversation.take(line)
    assert run.ended is not None
    return conversation.outcome(run.ended, limit_s)


def _checked(args: object) -> dict[str, Any]:
    if args is None:
        return {}
    if not isinstance(args, dict):
        raise ScriptRefused("args", args, "a JSON object, for instance {'month': 11}")
    if taken := sorted(RESERVED & args.keys()):
        raise ScriptRefused("args", taken[0], "a name that the mesh itself fills: choose another")
    return args


def _json_of(arguments: dict[str, Any]) -> str:
    try:
        return json.dumps(arguments, allow_nan=False)
    except ValueError as exc:
        raise ScriptRefused("args", arguments, f"finite numbers; JSON has no others ({exc})") from None


def _environment(task: GpuTask, current: Settings, script: str, folder: str | None, limit_s: float) -> dict[str, str]:
    device = task.device
    hints = {
        TASK_ID: task.request.id,
        "MESH_SCRIPT": script,
        "MESH_CHECKPOINT_DIR": folder,
        "MESH_TIME_LIMIT_S": f"{limit_s:g}",
        "MESH_STOP_GRACE_S": f"{current.script_grace_s:g}",
        "MESH_NODE": current.node_name,
        "MESH_DEVICE": device.name if device else None,
        "MESH_GPU_TYPE": device.gpu_type if device else None,
        "MESH_MEMORY_GB": f"{device.budget_gb:g}" if device else None,
    }
    return environment(os.environ, also=current.script_env, devices=task.devices, hints=hints)


class _Conversation:
    """What one run says, and what it is told."""

    def __init__(self, task: GpuTask, script: str, run: Run, *, resumes: bool) -> None:
        self._task, self._script, self._run = task, script, run
        self._resumes = resumes
        self._asked: str | None = None
        self._result: Any = None
        self._has_result = False
        self._pace = output.LogPace()
        self._progress: dict[str, float] | None = None
        self._told_at = -PROGRESS_EVERY_S
        self._said_at = time.monotonic()

    def take(self, line: output.Line | None) -> None:
        """One line, or a tick."""
        if line is None:
            self._look()
        elif (message := self._parsed(line)) is not None:
            if message.kind == "result" and len(line.data) > settings().script_result_max_mb * _MB + _FRAME_BYTES:
                self._refuse_long(message.kind)
            self._hear(message)
        elif (kind := output.too_long(line)) is not None:
            self._refuse_long(kind)
        elif self._pace.allows():
            extra = {"action": "script", "script": self._script, "task": self._task.request.id}
            logger.info("%s: %s", self._script, output.shown(line), extra=extra)

    def _parsed(self, line: output.Line) -> output.Message | None:
        try:
            return output.parse(line)
        except output.NotJson as exc:
            remedy = "JSON has no such number, print null or a text in its place"
            raise ScriptFailed(f"{self._script} printed a result or checkpoint with {exc}; {remedy}") from None

    def outcome(self, ended: Ended, limit_s: float) -> Any:
        """The result. Raises ScriptError, or Preempted where it was asked to stop before it had one."""
        self._say_dropped()
        stderr = str(self._run.stderr)
        if ended.error is not None:
            raise ScriptFailed(f"{self._script} cannot be started on this node: {ended.error}")
        if ended.timed_out and not (self._has_result and ended.code == 0):
            remedy = "give it more with soft_time_limit= (s), or make it smaller"
            raise ScriptTimedOut(
                f"{self._script} was ended at its limit of {limit_s:g} s; {remedy}", ended.code, stderr
            )
        if self._asked is not None and not (self._has_result and ended.code == 0):
            raise Preempted(self._asked, counts=False)
        if ended.code != 0:
            raise ScriptFailed(f"{self._script} {_words(ended.code)}", ended.code, stderr)
        return self._result

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._said_at >= DROPPED_EVERY_S:
            self._said_at = now
            self._say_dropped()
        if self._progress is not None and now - self._told_at >= PROGRESS_EVERY_S:
            self._told_at = now
            self._task.report_progress(self._progress["done"], self._progress["total"])
            self._progress = None
        # One that keeps nothing would begin anew: it may go on until the stop's own limit.
        if self._asked is None and self._resumes and self._task.should_yield:
            claim = self._task.request.get(CLAIM_HEADER) or {}
            self._ask(BOARD.asked(claim.get("tag", "")) or "asked to yield")

    def _ask(self, reason: str) -> None:
        self._asked = reason
        logger.info("%s is asked to save and stop", self._script, extra={"action": "yield"})
        self._run.stop()

    def _hear(self, message: output.Message) -> None:
        if message.kind == "progress":
            # Without a run of the mesh's there is no state to tell it in.
            if not (self._task.request.called_directly or self._task.request.is_eager):
                self._progress = message.value
        elif message.kind == "result":
            self._result, self._has_result = message.value, True
        else:
            self._save(message.value)

    def _save(self, state: Any) -> None:
        self._resumes = True
        try:
            self._task.checkpoint(state)
        except Preempted as exc:
            if not self._task.should_yield:  # another worker's by now
                self._run.kill()
                raise
            if self._asked is None:
                self._ask(exc.reason)

    def _refuse_long(self, kind: str) -> None:
        if kind == "checkpoint":
            limit = f"at most {settings().checkpoint_max_mb:g} MB (GPU_MESH_CHECKPOINT_MAX_MB)"
            raise CheckpointTooLarge(
                "state", "a line too long", f"{limit}: keep what is large in the checkpoint folder"
            )
        limit = f"at most {settings().script_result_max_mb:g} MB (GPU_MESH_SCRIPT_RESULT_MAX_MB)"
        raise ScriptResultTooLarge(f"{self._script} printed a result larger than allowed: {limit}; print a file's name")

    def _say_dropped(self) -> None:
        if dropped := self._pace.dropped():
            logger.warning("%s: %d more lines not shown", self._script, dropped, extra={"action": "script"})


def _words(code: int | None) -> str:
    if code is None:
        return "was killed with its guard process"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
