"""Saving and finding a task's checkpoint, whatever Redis does meanwhile: it may cost the state, never the job."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from enum import Enum
from typing import Any

from gpu_mesh.errors import BrokerUnavailable, CheckpointTooLarge, InvalidCheckpoint
from gpu_mesh.settings import settings
from gpu_mesh.store import checkpoints
from gpu_mesh.store.client import mapped_errors, process_client

__all__ = ["Saved", "drop", "encode", "load", "save"]

logger = logging.getLogger(__name__)

#: How long Redis's answer may take, s.
TIMEOUT_S = 5.0
#: After a save that Redis did not answer none is tried for so long, s: a job that saves often must not stand still.
PAUSE_S = 10.0
#: How long a run waits for Redis to hear what was saved, s; between two tries, s.
LOAD_WAIT_S, LOAD_EVERY_S = 30.0, 0.5
#: What the error calls the value.
_STATE = "state"
#: Bytes in a MB.
_MB = 1_000_000
_ALLOWED = "a checkpoint is JSON: text, finite numbers, true, false, none, lists and maps with text keys"


class Saved(Enum):
    """What became of a checkpoint."""

    YES = "saved"
    #: Redis is away; the one before still holds.
    NO = "not saved"
    #: The claim is another worker's by now.
    LOST = "claim lost"


def encode(state: Any) -> str:
    """The state as JSON.

    Raises InvalidCheckpoint, naming the part of the state that is none, and CheckpointTooLarge.
    """
    if state is None:
        raise InvalidCheckpoint(_STATE, None, "none means that nothing was saved: save a map, such as {'done': 3}")
    try:
        _check(_STATE, state)
        text = json.dumps(state, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size_mb = len(text.encode()) / _MB
    except RecursionError:
        raise InvalidCheckpoint(_STATE, type(state), "holds itself, or is nested too deeply") from None
    except (TypeError, ValueError) as exc:  # half a surrogate pair, a number of too many digits
        if isinstance(exc, InvalidCheckpoint):
            raise
        raise InvalidCheckpoint(_STATE, type(state), f"{_ALLOWED} ({exc})") from None
    limit_mb = settings().checkpoint_max_mb
    if size_mb > limit_mb:
        raise CheckpointTooLarge(
            _STATE,
            f"{size_mb:.1f} MB",
            f"at most {limit_mb:g} MB (GPU_MESH_CHECKPOINT_MAX_MB): keep what is large in a file and save its name",
        )
    return text


def _check(where: str, value: Any) -> None:
    """Raise for what JSON does not give back: objects, NaN, keys that would turn into text."""
    if isinstance(value, Mapping):
        if not isinstance(value, dict):
            raise InvalidCheckpoint(where, value, f"{_ALLOWED}; make it a dict")
        for key, held in value.items():
            if not isinstance(key, str):
                raise InvalidCheckpoint(where, key, f"{_ALLOWED}; as a key it would come back as text")
            _check(f"{where}.{key}", held)
    elif isinstance(value, (list, tuple)):
        for i, held in enumerate(value):
            _check(f"{where}[{i}]", held)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidCheckpoint(where, value, _ALLOWED)
    elif value is not None and not isinstance(value, (str, int)):
        raise InvalidCheckpoint(where, value, _ALLOWED)


#: When saving may be tried again, s, monotonic; one process runs one job.
_quiet_until = 0.0


def save(task_id: str, claim: Mapping[str, Any], text: str, *, urgent: bool = False) -> Saved:
    """Keep the state of a run that holds `claim`. Not tried while Redis was just away, but where it is `urgent`."""
    global _quiet_until
    if time.monotonic() < _quiet_until and not urgent:
        return Saved.NO
    current = settings()
    try:
        with mapped_errors(current):
            client = process_client(os.getpid(), TIMEOUT_S)
            ours = checkpoints.save(
                client,
                task_id,
                text,
                worker=claim["worker"],
                tag=claim["tag"],
                expires_s=current.checkpoint_expires_s,
            )
    except BrokerUnavailable as exc:
        _quiet_until = time.monotonic() + PAUSE_S
        logger.warning("%s: checkpoint not saved, going on: %s", task_id, exc, extra={"action": "checkpoint"})
        return Saved.NO
    return Saved.YES if ours else Saved.LOST


def load(task_id: str) -> Any:
    """The state saved last; None where there is none.

    Waits for a Redis that is away: a job that began anew would overwrite what it had reached. Raises
    BrokerUnavailable after LOAD_WAIT_S.
    """
    current, deadline = settings(), time.monotonic() + LOAD_WAIT_S
    while True:
        try:
            with mapped_errors(current):
                text = checkpoints.load(process_client(os.getpid(), TIMEOUT_S), task_id)
            break
        except BrokerUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOAD_EVERY_S)
    return None if text is None else json.loads(text)


def drop(task_id: str) -> None:
    """Forget the state: the task has ended. What Redis does not hear expires."""
    try:
        with mapped_errors(settings()):
            checkpoints.drop(process_client(os.getpid(), TIMEOUT_S), task_id)
    except BrokerUnavailable as exc:
        logger.warning("%s: checkpoint left to expire: %s", task_id, exc, extra={"action": "checkpoint"})
