"""What an `llm_inference` is asked, checked; and its sends, which the caller hears of at once where they are wrong."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpu_mesh.engines import Engine
from gpu_mesh.engines.base import Chunks, GenerateOptions
from gpu_mesh.engines.options import check_messages, check_name, check_options, check_text
from gpu_mesh.errors import InvalidTask
from gpu_mesh.tasks.base import GpuTask
from gpu_mesh.tasks.options import needs_of

__all__ = ["AskingTask", "Question", "check_question"]


@dataclass(frozen=True, slots=True)
class Question:
    """Either a prompt or messages."""

    prompt: str | None
    system: str | None
    messages: list[dict[str, str]] | None
    model: str | None
    options: GenerateOptions

    def ask(self, engine: Engine, model: str) -> Chunks:
        """The answer, piece by piece."""
        if self.messages is not None:
            return engine.chat(self.messages, model, options=self.options)
        return engine.generate(str(self.prompt), model, system=self.system, options=self.options)


def check_question(
    prompt: object = None,
    model: str | None = None,
    system: object = None,
    options: object = None,
    messages: object = None,
) -> Question:
    """The question. Raises InvalidTask naming the argument."""
    if prompt is None and messages is None:
        raise InvalidTask("prompt", None, 'give a prompt, or messages=[{"role": "user", "content": "…"}]')
    if prompt is not None and messages is not None:
        raise InvalidTask("messages", messages, "give either a prompt or messages, not both")
    check_name(model)
    chosen = check_options(options)
    if messages is None:
        instruction = None if system is None else check_text("system", system)
        return Question(check_text("prompt", prompt), instruction, None, model, chosen)
    if system is not None:
        raise InvalidTask("system", system, 'goes with a prompt; among messages it is {"role": "system", …}')
    if chosen.raw:
        raise InvalidTask("options.raw", True, "goes with a prompt, not with messages")
    return Question(None, None, check_messages(messages), model, chosen)


class AskingTask(GpuTask):
    """A GpuTask with `check_question`'s arguments: checked before they are sent, its model a requirement."""

    abstract = True

    def checked(self, args: Any, kwargs: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """As GpuTask's. Raises InvalidTask for a wrong question; what a job sends on is checked where it runs."""
        given, chosen = _bound(args, kwargs), dict(options)
        is_job = self._get_app().current_worker_task is not None
        if given is not None and not is_job:
            check_question(**given)
        named = (given or {}).get("model")
        if isinstance(named, str) and named:
            # Placement goes by requirements: devices that have the model loaded, or are kept for it.
            needed = needs_of({**self.declared, **chosen}).get("model")
            if needed is None:
                chosen["model"] = named
            elif needed != named and not is_job:
                raise InvalidTask("model", named, f"the requirements name another one, {needed!r}: name it once")
        return super().checked(args, kwargs, chosen)


_SIGNATURE = inspect.signature(check_question)


def _bound(args: Any, kwargs: Any) -> dict[str, Any] | None:
    """Arguments by name; None where they do not fit the signature, which Celery then says."""
    try:
        return dict(_SIGNATURE.bind(*(args or ()), **(kwargs or {})).arguments)
    except TypeError:
        return None
