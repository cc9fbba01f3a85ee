"""The `llm_inference` task type: a model's answer (SPEC T, docs/inference.md).

    sent = llm_inference.delay("Say hello", model="gemma4:e4b", options={"max_tokens": 50})
    for piece in gpu_mesh.stream(sent): print(piece, end="")      as it comes
    sent.get()["text"]                                            at the end

The engine is always asked to stream, so that it can be stopped in the middle: by `cancel`, a time limit, a stop.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any

from celery import shared_task, states
from celery.exceptions import Ignore
from celery.signals import task_postrun

from gpu_mesh.engines.base import Chunk, Kind
from gpu_mesh.engines.options import check_text
from gpu_mesh.errors import InferenceTimedOut
from gpu_mesh.services.alarm import alarm
from gpu_mesh.services.board import BOARD
from gpu_mesh.services.streaming import StreamWriter, end_stream, put_to_redis
from gpu_mesh.settings import settings
from gpu_mesh.store.claims import CLAIM_HEADER
from gpu_mesh.tasks.base import GpuTask
from gpu_mesh.tasks.checkpointing import Preempted
from gpu_mesh.tasks.engine_use import EngineUse, engine_of
from gpu_mesh.tasks.questions import AskingTask, Question, check_question

__all__ = ["close_stream", "llm_inference"]

#: Bytes in a MB.
_MB = 1_000_000
#: Where a run keeps its side of the stream, in its request.
_STREAM = "mesh_stream"


@shared_task(name="llm_inference", bind=True, base=AskingTask, remote=True)
def llm_inference(
    self: GpuTask,
    prompt: str | None = None,
    model: str | None = None,
    system: str | None = None,
    options: dict[str, Any] | None = None,
    messages: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    """Answer `prompt`, or the last of `messages`; `options` are those of docs/engines.md.

    Returns `text`, `thinking` (where there is any), `reason` (`stop` or `length`), `model`, `engine`, `device`,
    `prompt_tokens`, `output_tokens`, `first_token_s` and `seconds` (s from the start of the run).
    Raises InvalidTask, ModelNotFound, EngineError and its kinds, InferenceTimedOut.
    """
    question = check_question(prompt, model, system, options, messages)
    answer = _Answer()
    with _limited(self), _streaming(self) as out:
        use = engine_of(self, Kind.GENERATE, question.model)
        _listen(self, question, use, answer, out)
        use.note_footprint()
    return {
        **answer.to_dict(),
        "model": use.model,
        "engine": use.engine.name,
        "device": use.device.worker,
        "seconds": round(time.monotonic() - answer.begun_at, 3),
    }


@task_postrun.connect
def close_stream(task: Any = None, state: str | None = None, **_: Any) -> None:
    """Tell readers of the end, now that the result is stored. A run that is followed by another one has none."""
    writer = vars(task.request).get(_STREAM) if isinstance(task, GpuTask) else None
    if writer is not None and state is not None and state in (states.SUCCESS, states.FAILURE):
        ignored = task.ignore_result if task.request.ignore_result is None else task.request.ignore_result
        end_stream(writer, state, keep_text=bool(ignored))


class _Answer:
    """What was said so far."""

    def __init__(self) -> None:
        self.begun_at = time.monotonic()
        self._first_at: float | None = None
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._last: Chunk | None = None

    def add(self, chunk: Chunk, text: str, thinking: str) -> None:
        """One piece."""
        self._first_at = self._first_at or time.monotonic()
        self._text.append(text)
        self._thinking.append(thinking)
        self._last = chunk

    def to_dict(self) -> dict[str, Any]:
        """Its part of the result."""
        last, thinking = self._last, "".join(self._thinking)
        return {
            "text": "".join(self._text),
            **({"thinking": thinking} if thinking else {}),
            "reason": last and last.reason,
            "prompt_tokens": last and last.prompt_tokens,
            "output_tokens": last and last.output_tokens,
            "first_token_s": self._first_at and round(self._first_at - self.begun_at, 3),
        }


def _listen(task: GpuTask, question: Question, use: EngineUse, answer: _Answer, out: StreamWriter | None) -> None:
    """Hear the engine out. Leaving closes its connection, upon which it stops its work."""
    with closing(question.ask(use.engine, use.model)) as chunks:
        for chunk in chunks:
            # As UTF-8 can express it, in the stream and the result alike.
            text, thinking = check_text("text", chunk.text), check_text("thinking", chunk.thinking)
            answer.add(chunk, text, thinking)
            if out is not None:
                out.write(text, thinking)
                if out.lost:
                    raise Ignore(f"{task.request.id} runs elsewhere by now")
            if not chunk.done and task.should_yield:
                claim = task.request.get(CLAIM_HEADER) or {}
                raise Preempted(BOARD.asked(claim.get("tag", "")) or "asked to yield", counts=False)


@contextmanager
def _streaming(task: GpuTask) -> Iterator[StreamWriter | None]:
    """The run's side of its stream; None for a run in the caller, which nobody else can read."""
    request = task.request
    if request.called_directly or request.is_eager:
        yield None
        return
    put = put_to_redis(request.id, request.get(CLAIM_HEADER) or {})
    with StreamWriter(request.id, put, max_bytes=int(settings().stream_max_mb * _MB)) as writer:
        setattr(request, _STREAM, writer)
        yield writer


def _limited(task: GpuTask) -> Any:
    """The limit by default; Celery enforces the caller's own, and a run in the caller has none."""
    request, limit_s = task.request, settings().inference_limit_s
    if request.called_directly or request.is_eager or any(request.timelimit or ()):
        return nullcontext()
    remedy = "give it more with soft_time_limit= (s), or ask for less with options={'max_tokens': …}"
    return alarm(limit_s, InferenceTimedOut(f"llm_inference was ended at its limit of {limit_s:g} s; {remedy}"))
