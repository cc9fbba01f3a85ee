"""Between the official Ollama client and us: its options, the pieces of its answers, its errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gpu_mesh.engines import failures
from gpu_mesh.engines.base import LENGTH, STOP, Chunk, GenerateOptions
from gpu_mesh.errors import MeshError, ModelNotFound

if TYPE_CHECKING:
    import ollama

__all__ = ["chunk_of", "mapped", "options_of"]

_ENGINE = "ollama"


def chunk_of(answer: Any, url: str) -> Chunk:
    """A piece of a GenerateResponse or ChatResponse. Raises EngineError for one that is neither text nor an end."""
    said = getattr(answer, "message", None)
    text, thinking = (answer.response, answer.thinking) if said is None else (said.content, said.thinking)
    if text is None and thinking is None and answer.done is None:
        raise failures.malformed(_ENGINE, url, "a piece without text")
    if not answer.done:
        return Chunk(text=text or "", thinking=thinking or "")
    return Chunk(
        text=text or "",
        thinking=thinking or "",
        done=True,
        reason=LENGTH if answer.done_reason == LENGTH else STOP,
        prompt_tokens=answer.prompt_eval_count,
        output_tokens=answer.eval_count,
    )


@contextmanager
def mapped(
    url: str, limit_s: float, missing: Callable[[str], ModelNotFound], model: str | None, *, pulling: bool = False
) -> Iterator[None]:
    """Our errors in place of the client's, httpx's and those of an answer that is none.

    `missing` makes the error for a model that is not there.
    """
    import httpx
    import ollama

    try:
        yield
    except MeshError:
        raise
    except ollama.ResponseError as error:
        raise _refusal(error, url, missing, model, pulling=pulling) from None
    except (ConnectionError, httpx.ConnectError, httpx.ConnectTimeout) as error:
        cause = error.__context__ if isinstance(error, ConnectionError) else error
        raise failures.not_reached(_ENGINE, url, cause or error) from None
    except httpx.TimeoutException:
        raise failures.timed_out(_ENGINE, url, limit_s) from None
    except httpx.TransportError as error:
        raise failures.broke_off(_ENGINE, url, error) from None
    # What pydantic, json and the client itself raise for an answer of another shape.
    except (httpx.HTTPError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise failures.malformed(_ENGINE, url, error) from error


def _refusal(
    error: ollama.ResponseError,
    url: str,
    missing: Callable[[str], ModelNotFound],
    model: str | None,
    *,
    pulling: bool,
) -> MeshError:
    words, status = str(error.error), max(0, error.status_code)
    if pulling and ("does not exist" in words or "not found" in words):
        return ModelNotFound(f"Ollama's library has no model {model!r} ({words}); see ollama.com/library")
    if status == failures.NOT_FOUND and model is not None and "not found" in words and "model" in words:
        return missing(model)
    if status == failures.NOT_FOUND:
        return failures.malformed(_ENGINE, url, f"HTTP {status}: {words}")
    return failures.of_answer(_ENGINE, url, status, words, model)


def options_of(chosen: GenerateOptions) -> dict[str, Any]:
    """By the names Ollama has for them; what is not given is left out."""
    given = {
        "num_predict": chosen.max_tokens,
        "temperature": chosen.temperature,
        "top_p": chosen.top_p,
        "top_k": chosen.top_k,
        "seed": chosen.seed,
        "stop": list(chosen.stop) or None,
        "num_ctx": chosen.context_tokens,
    }
    return {name: value for name, value in given.items() if value is not None}
