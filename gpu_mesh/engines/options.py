"""What a caller may ask for when text is generated, and the checks all engines share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from gpu_mesh.errors import InvalidTask

__all__ = [
    "GenerateOptions",
    "Message",
    "check_messages",
    "check_name",
    "check_options",
    "check_text",
    "check_texts",
]

#: One turn of a chat: `{"role": "system" | "user" | "assistant", "content": "…"}`.
Message: TypeAlias = Mapping[str, str]

#: Who may speak in a chat.
ROLES = ("system", "user", "assistant")

#: Ollama's own names of options, which its users know → ours.
OLLAMA_NAMES = {"num_predict": "max_tokens", "num_ctx": "context_tokens"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """How to generate. None leaves it to the engine. docs/engines.md says which engine passes on what."""

    max_tokens: int | None = None
    #: 0 is the most likely token always.
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    #: Texts at which generation stops.
    stop: tuple[str, ...] = ()
    #: Room for prompt and answer, in tokens; more takes more memory.
    context_tokens: int | None = None
    #: Whether a model that can think first does.
    think: bool | None = None
    #: `generate` only: continue the prompt as it is, without the model's chat template.
    raw: bool = False
    #: How long the model stays in memory after this, in seconds; below 0: until it is unloaded.
    keep_alive_s: float | None = None


#: Limits by option: lowest and highest value allowed; None is no limit.
_WHOLE: dict[str, tuple[int, int | None]] = {
    "max_tokens": (1, None),
    "top_k": (1, None),
    "seed": (-(2**63), 2**63 - 1),
    "context_tokens": (1, None),
}
_REAL: dict[str, tuple[float, float | None]] = {
    "temperature": (0.0, None),
    "top_p": (0.0, 1.0),
    "keep_alive_s": (-math.inf, None),
}
_NAMES = tuple(field.name for field in fields(GenerateOptions))


def check_options(options: object) -> GenerateOptions:
    """`options` checked: a mapping as from JSON (also with Ollama's names), GenerateOptions, or None for none.

    Raises InvalidTask (field `options`, or `options.NAME`) for an unknown name, a wrong type, a value out of range.
    """
    if isinstance(options, GenerateOptions):
        options = {name: getattr(options, name) for name in _NAMES}
    if options is None:
        return GenerateOptions()
    if not isinstance(options, Mapping):
        raise InvalidTask("options", options, f"is of type {type(options).__name__}, expected a mapping of options")
    found: dict[str, Any] = {}
    for given, value in options.items():
        name = OLLAMA_NAMES.get(given, given) if isinstance(given, str) else given
        if name not in _NAMES:
            raise InvalidTask("options", given, f"no such option; there are: {', '.join(_NAMES)}")
        if value is not None:
            found[name] = _checked(name, value)
    return GenerateOptions(**found)


def _checked(name: str, value: object) -> object:
    if name in ("raw", "think"):
        if not isinstance(value, bool):
            raise InvalidTask(f"options.{name}", value, "expected true or false")
        return value
    if name == "stop":
        return _stop(value)
    if name in _WHOLE:
        low, high = _WHOLE[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            raise InvalidTask(f"options.{name}", value, f"expected a whole number from {low}")
        return value
    least, most = _REAL[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise InvalidTask(f"options.{name}", value, "expected a finite number")
    if value < least or (most is not None and value > most):
        limits = f"from {least:g}" + ("" if most is None else f" to {most:g}")
        raise InvalidTask(f"options.{name}", value, f"expected a number {limits}")
    return float(value)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float can hold
        return False


def _stop(value: object) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise InvalidTask("options.stop", value, "expected a list of texts, none of them empty")
    return tuple(_speakable(text) for text in texts)


def check_messages(messages: object) -> list[dict[str, str]]:
    """`messages` as every engine can take them.

    Raises InvalidTask (field `messages`) unless it is a list or tuple, not empty, of `{"role", "content"}` with a
    known role and a string each; the error names the first item that is none by its index.
    """
    if not isinstance(messages, list | tuple) or not messages:
        kind = "empty" if messages == [] or messages == () else f"of type {type(messages).__name__}"
        raise InvalidTask("messages", messages, f'is {kind}, expected a list of {{"role": …, "content": …}}')
    return [_message(index, message) for index, message in enumerate(messages)]


def _message(index: int, message: object) -> dict[str, str]:
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        raise InvalidTask("messages", message, f"item {index}: expected exactly the keys role and content")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise InvalidTask("messages", role, f"item {index}: the role is one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise InvalidTask("messages", content, f"item {index}: content is {type(content).__name__}, expected a string")
    return {"role": role, "content": _speakable(content)}


def check_text(field: str, text: object) -> str:
    """One text as every engine can take it. Raises InvalidTask naming `field`."""
    if not isinstance(text, str):
        raise InvalidTask(field, text, f"is of type {type(text).__name__}, expected a string")
    return _speakable(text)


def check_texts(texts: object) -> list[str]:
    """`texts` as every engine can take them: lone surrogates, which UTF-8 cannot express, become `?`.

    Raises InvalidTask (field `texts`) unless it is a list or tuple of strings; the error names the first
    item that is none by its index.
    """
    if not isinstance(texts, list | tuple):
        hint = "; put the one text into a list" if isinstance(texts, str) else ""
        raise InvalidTask("texts", texts, f"is of type {type(texts).__name__}, expected a list of strings{hint}")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise InvalidTask("texts", text, f"item {index} is of type {kind}, expected a string")
    return [_speakable(text) for text in texts]


def _speakable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def check_name(model: object) -> None:
    """Raises InvalidTask (field `model`) for what is neither a string nor None, or what UTF-8 cannot express."""
    if model is None:
        return
    if not isinstance(model, str):
        raise InvalidTask("model", model, f"is of type {type(model).__name__}, expected a model's name as a string")
    if _speakable(model) != model:
        raise InvalidTask("model", model, "holds a lone surrogate, which no engine can be sent")
