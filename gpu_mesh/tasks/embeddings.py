"""The `embeddings` task type: vectors for a list of texts (SPEC T).

    result = embeddings.delay(["first text", "second text"])
    result.get()  →  {"model": "wordllama-256", "dimensions": 256, "count": 2, "vectors": [[…], […]]}

More than `GPU_MESH_EMBED_CHUNK` texts are split by the worker that takes the task into parts of that size, which
all devices share; the parts' vectors come back in the order of the texts, under the id the caller holds.
While parts run, the task's state is PROGRESS with `{"done": texts, "total": texts}`. Once the task is cancelled, parts
that have not begun do nothing, and it ends as REVOKED, with the chord it may be in.

A device that is needed for more urgent work gets it between two parts, and within one of many texts between two pieces:
the pieces that are done are kept, and the part goes on from there, on any device.

All parts are made by one model, which the splitting worker names. A part that comes to a device whose engine has not
that model, or does not answer, goes back to the splitting worker's device, which has it.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import chord, shared_task, states
from celery.exceptions import Ignore

from gpu_mesh.engines import vectors
from gpu_mesh.engines.base import Ability, Kind, check_model, check_texts
from gpu_mesh.engines.naming import canonical
from gpu_mesh.errors import (
    BrokerUnavailable,
    CheckpointTooLarge,
    EngineError,
    EngineUnavailable,
    InvalidTask,
    ModelNotFound,
)
from gpu_mesh.services.revoking import CANCELLED
from gpu_mesh.settings import settings
from gpu_mesh.store import progress, revoked
from gpu_mesh.store.client import connect, mapped_errors
from gpu_mesh.tasks.base import GpuTask
from gpu_mesh.tasks.engine_use import EngineUse, engine_of

__all__ = ["ENCODINGS", "embed_part", "embeddings", "join_parts"]

logger = logging.getLogger(__name__)

#: Texts that the engine is given at once: between two pieces a run may yield.
PIECE = 64

#: How vectors are written in the result: JSON numbers, or base64 of little-endian float32.
ENCODINGS = ("float", "base64")


@shared_task(name="embeddings", bind=True, remote=True)
def embeddings(self: GpuTask, texts: list[str], model: str | None = None, encoding: str = "float") -> Any:
    """Embed `texts` (n of them): `{"model", "dimensions", "count", "vectors"}`, vectors of unit length.

    `encoding="base64"` gives `vectors` as one string of n·dimensions float32, a third of the size.
    Raises InvalidTask for what is no list of texts, ModelNotFound, EngineUnavailable.
    """
    _check(texts, encoding)
    use = engine_of(self, Kind.EMBED, model)
    size = settings().embed_chunk
    if len(texts) <= size or self.request.is_eager:
        return _embed(self, texts, use, encoding)
    # Here, where the caller hears of it as it is: of a part's failure a chord tells the text alone.
    model = _present(use)
    home = self.device.worker if self.device else None
    parts = [
        embed_part.s(texts[at : at + size], model, self.request.id, len(texts), home).set(**self.inherited())
        for at in range(0, len(texts), size)
    ]
    return self.replace(chord(parts, join_parts.s(encoding).set(**self.inherited())))


@shared_task(name="embeddings.part", bind=True)
def embed_part(
    self: GpuTask, texts: list[str], model: str | None, whole: str, total: int, home: str | None = None
) -> dict[str, Any] | None:
    """One part of the task `whole`, which has `total` texts in all; its vectors in base64. None for nothing: `whole`
    was cancelled. `home` is the device that has the model, where this one has not.
    """
    if _cancelled(whole):
        return None
    try:
        embedded = _embed(self, texts, engine_of(self, Kind.EMBED, model), "base64")
    except (ModelNotFound, EngineUnavailable) as exc:
        if home is None or self.device is None or home == self.device.worker:
            raise
        logger.info("%s goes to %s: %s", self.request.id, home, exc, extra={"action": "pass_on"})
        there = {**self.inherited(), "device": home}
        raise self.replace(embed_part.s(texts, model, whole, total, home).set(**there)) from exc
    _report(self, whole, len(texts), total)
    return embedded


@shared_task(name="embeddings.join", bind=True, gpu_count=0)
def join_parts(self: GpuTask, found: list[dict[str, Any] | None], encoding: str) -> dict[str, Any]:
    """The parts' vectors as one result, in their order. The task ends as REVOKED where a part is missing."""
    parts = [part for part in found if part is not None]
    if len(parts) < len(found):
        self.backend.mark_as_revoked(self.request.id, CANCELLED, request=self.request)
        raise Ignore
    if len(made := {(part["model"], part["dimensions"]) for part in parts}) > 1:
        kinds = ", ".join(f"{model} of {dimensions} dimensions" for model, dimensions in sorted(made))
        raise EngineError(f"parts were made by different models ({kinds}): give devices the same one of that name")
    dimensions = parts[0]["dimensions"]
    joined = vectors.join(part["vectors"] for part in parts)
    return {
        "model": parts[0]["model"],
        "dimensions": dimensions,
        "count": sum(part["count"] for part in parts),
        "vectors": joined if encoding == "base64" else vectors.to_lists(vectors.decode(joined, dimensions)),
    }


def _cancelled(whole: str) -> bool:
    """Whether `whole` was taken back. Not as far as we know while Redis is away: the part's work may be wanted."""
    try:
        with mapped_errors(settings()), connect(settings()) as client:
            return revoked.contains(client, whole)
    except BrokerUnavailable as exc:
        logger.warning("%s: whether it is cancelled is not known: %s", whole, exc, extra={"action": "cancelled"})
        return False


def _report(part: GpuTask, whole: str, amount: int, total: int) -> None:
    """Say how far `whole` is. A figure less is no reason to lose the part's work."""
    try:
        with mapped_errors(settings()), connect(settings()) as client:
            done = progress.add(client, whole, part.request.id, amount)
    except BrokerUnavailable as exc:
        logger.warning("progress of %s not told: %s", whole, exc, extra={"action": "progress"})
        return
    # Celery would write PROGRESS over a failure that another part has brought about.
    if done < total and part.AsyncResult(whole).state not in states.READY_STATES:
        part.report_progress(done, total, task_id=whole)


def _check(texts: object, encoding: object) -> None:
    check_texts(texts)
    if encoding not in ENCODINGS:
        raise InvalidTask("encoding", encoding, f"one of {', '.join(ENCODINGS)}")


def _present(use: EngineUse) -> str:
    """The model's name. Raises ModelNotFound where the engine has none of it, and may fetch none."""
    if Ability.PULL in use.engine.abilities:
        return use.model
    names = {canonical(known.name): known.name for known in use.engine.models()}
    return check_model(names.get(canonical(use.model), use.model), list(names.values()), use.engine.name)


def _embed(task: GpuTask, texts: list[str], use: EngineUse, encoding: str) -> dict[str, Any]:
    saved = _saved(task, texts, use)
    made: list[str] = [saved["vectors"]] if saved else []
    count = saved["count"] if saved else 0
    while True:
        found = use.engine.embed(texts[count : count + PIECE], use.model)
        if saved and (saved["model"], saved["dimensions"]) != (found.model, found.dimensions):
            # Where it was saved another model has the name.
            saved, made, count = None, [], 0
            continue
        made.append(vectors.encode(found.vectors))
        count += len(found.vectors)
        if count >= len(texts):
            break
        if task.should_yield:
            done = {"count": count, "vectors": vectors.join(made)}
            _yield(task, {"asked": use.model, "model": found.model, "dimensions": found.dimensions, **done})
    use.note_footprint()
    joined = vectors.join(made)
    return {
        "model": found.model,
        "dimensions": found.dimensions,
        "count": len(texts),
        "vectors": joined if encoding == "base64" else vectors.to_lists(vectors.decode(joined, found.dimensions)),
    }


def _saved(task: GpuTask, texts: list[str], use: EngineUse) -> dict[str, Any] | None:
    """The pieces that an earlier run made with the same model; it yielded before the last one."""
    saved = task.restored if len(texts) > PIECE else None
    return saved if isinstance(saved, dict) and saved.get("asked") == use.model else None


def _yield(task: GpuTask, done: dict[str, Any]) -> None:
    try:
        task.checkpoint(done)
    except CheckpointTooLarge as exc:
        # What was made would be lost: the rest of a part is soon done.
        logger.info("%s goes on: %s", task.request.id, exc, extra={"action": "yield"})
