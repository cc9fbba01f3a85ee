"""Between the official OpenAI client and us: its options, the pieces of its answers, its errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gpu_mesh.engines import failures
from gpu_mesh.engines.base import GenerateOptions, no_such_model
from gpu_mesh.errors import EngineUnsupported, MeshError

if TYPE_CHECKING:
    import openai

__all__ = ["mapped", "options_of", "piece_of"]

_ENGINE = "openai"


@contextmanager
def mapped(url: str, limit_s: float, model: str | None = None) -> Iterator[None]:
    """Our errors in place of the client's, its HTTP library's and those of an answer that is none."""
    import httpx
    import openai

    try:
        yield
    except MeshError:
        raise
    except openai.APIStatusError as error:
        raise _refusal(error, url, model) from None
    except openai.APIResponseValidationError as error:
        raise failures.malformed(_ENGINE, url, error) from error
    except openai.APIConnectionError as error:
        raise _cut(error.__cause__ or error, url, limit_s) from None
    except openai.APIError as error:  # within a stream
        raise failures.of_answer(_ENGINE, url, 0, error.message, model) from None
    except httpx.TransportError as error:  # within a stream, before version 3 of the client
        raise _cut(error, url, limit_s) from None
    except (openai.OpenAIError, httpx.HTTPError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise failures.malformed(_ENGINE, url, error) from error


def _cut(cause: BaseException, url: str, limit_s: float) -> MeshError:
    """By its name: the client's HTTP library is httpx or its successor, by version, with the same names in both."""
    kind = type(cause).__name__
    if kind in ("ConnectError", "ConnectTimeout"):
        return failures.not_reached(_ENGINE, url, cause)
    if kind.endswith(("Timeout", "TimeoutError")):
        return failures.timed_out(_ENGINE, url, limit_s)
    return failures.broke_off(_ENGINE, url, cause)


def _refusal(error: openai.APIStatusError, url: str, model: str | None) -> MeshError:
    words = error.message.removeprefix(f"Error code: {error.status_code}").lstrip(" -") or error.response.reason_phrase
    if error.status_code != failures.NOT_FOUND:
        return failures.of_answer(_ENGINE, url, error.status_code, words, model)
    if model is None:
        return failures.malformed(_ENGINE, url, words)
    if "model" in words.lower():
        return no_such_model(model, (), _ENGINE, f"It was there a moment ago ({words})")
    return EngineUnsupported(f"openai at {url} does not do this kind of work with {model!r} ({words})")


def piece_of(answer: Any) -> tuple[str, str, str | None]:
    """Text, thinking and the reason of the end that one piece brings."""
    if not answer.choices:
        if answer.usage is None:
            raise ValueError("a piece without choices")
        return "", "", None
    choice = answer.choices[0]
    delta = getattr(choice, "delta", None)
    if delta is None:
        return choice.text or "", "", choice.finish_reason
    # As vLLM and LM Studio call it; newer ones of both also `reasoning`.
    thinking = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
    return delta.content or "", thinking or "", choice.finish_reason


def options_of(chosen: GenerateOptions) -> dict[str, Any]:
    """By the names the API has for them; what is not given is left out, and what the API cannot express."""
    given = {
        "max_tokens": chosen.max_tokens,
        "temperature": chosen.temperature,
        "top_p": chosen.top_p,
        "seed": chosen.seed,
        "stop": list(chosen.stop) or None,
        "extra_body": None if chosen.top_k is None else {"top_k": chosen.top_k},
    }
    return {name: value for name, value in given.items() if value is not None}
