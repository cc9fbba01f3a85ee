"""The engine protocol: what every engine offers the tasks and the health checks, and the data it speaks in.

An engine runs models: in this process (`local`), or behind an address (Ollama, an OpenAI-compatible server).
All of them pass the suite in tests/unit/engines/test_conformance.py.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeAlias

from gpu_mesh.engines.options import GenerateOptions, Message, check_name, check_texts
from gpu_mesh.errors import EngineUnsupported, ModelNotFound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "LENGTH",
    "STOP",
    "Ability",
    "Chunk",
    "Chunks",
    "Embeddings",
    "Engine",
    "EngineStatus",
    "GenerateOptions",
    "Kind",
    "Message",
    "Model",
    "Pull",
    "Pulls",
    "check_model",
    "check_texts",
    "no_such_model",
    "unsupported",
]


class Kind(StrEnum):
    """What a model can do."""

    EMBED = "embed"
    GENERATE = "generate"


class Ability(StrEnum):
    """What an engine can do; what it cannot raises EngineUnsupported."""

    EMBED = "embed"
    #: `generate` and `chat`.
    GENERATE = "generate"
    #: Tell which models are in memory.
    LOADED = "loaded"
    LOAD = "load"
    UNLOAD = "unload"
    #: Fetch a model it does not have.
    PULL = "pull"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model that the engine has. Sizes in GB (2^30 bytes), None where the engine does not tell."""

    name: str
    #: Empty where the engine does not tell.
    kinds: frozenset[Kind] = frozenset()
    #: Memory it takes once loaded; while it is not loaded, where the engine tells only that, its size on disk.
    size_gb: float | None = None
    #: The part of it that lies in GPU memory now: less than `size_gb` means that the CPU does part of the work.
    vram_gb: float | None = None
    #: Whether it is in memory now; None where the engine does not tell.
    loaded: bool | None = False

    @property
    def cpu_share(self) -> float:
        """The part of a loaded model that lies outside GPU memory, 0 to 1; 0 where the engine does not tell."""
        if not self.loaded or not self.size_gb or self.vram_gb is None:
            return 0.0
        return min(1.0, max(0.0, 1.0 - self.vram_gb / self.size_gb))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What one check found."""

    reachable: bool
    #: How long the check took, in milliseconds.
    response_ms: float
    version: str | None = None
    models: tuple[Model, ...] = ()
    #: Why it is not reachable and what to do; None when it is.
    error: str | None = None

    @property
    def on_cpu(self) -> tuple[Model, ...]:
        """Loaded models of which the CPU does a part (silently, else): a fault on a device that is a GPU."""
        return tuple(model for model in self.models if model.cpu_share > 0)


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Vectors of texts, in the order of the texts."""

    #: The model that made them, also when the caller named none.
    model: str
    #: Shape (texts, dimensions). Rows have length 1, so that a dot product is the cosine similarity; the row
    #: of a text that is empty or only whitespace is all zeros, similar to nothing. Never NaN.
    vectors: NDArray[np.float32]

    @property
    def dimensions(self) -> int:
        """Length of one vector."""
        return int(self.vectors.shape[1])


#: Why an answer ended: the model was done, or `max_tokens` were reached.
STOP, LENGTH = "stop", "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of generated text."""

    text: str
    #: What a thinking model says to itself; no part of the answer.
    thinking: str = ""
    #: Whether it is the last one: only that one has the fields below.
    done: bool = False
    #: STOP or LENGTH.
    reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None


#: Generated text as it comes. `close()` stops the work; an error is raised at the call or at the first chunk.
Chunks: TypeAlias = Generator[Chunk, None, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """How far the fetching of a model is."""

    #: In the engine's words.
    status: str
    #: Of the part fetched now; None where it has no size.
    done_bytes: int | None = None
    total_bytes: int | None = None


#: Progress of a pull as it comes. `close()` stops it.
Pulls: TypeAlias = Generator[Pull, None, None]


class Engine(Protocol):
    """Runs models. Safe to use from several threads.

    `model=None` takes the engine's default model for that kind of work. Besides the errors each method names, an
    engine that does not answer raises EngineUnavailable (EngineTimeout when it is silent for too long), one that never
    does this kind of work EngineUnsupported, one without the memory EngineOutOfMemory, and one that answers with
    another failure EngineError.
    """

    #: As in the settings: `ollama`, `openai`, `local`.
    name: str

    @property
    def url(self) -> str | None:
        """Its address; None for the engine in this process."""
        ...

    @property
    def abilities(self) -> frozenset[Ability]:
        """What it can do."""
        ...

    def check(self) -> EngineStatus:
        """See how the engine is, without loading a model. Never raises: what is wrong stands in the status."""
        ...

    def models(self) -> tuple[Model, ...]:
        """All models present, the default for embedding first where there is one."""
        ...

    def loaded(self) -> tuple[Model, ...]:
        """Those in memory now, with their sizes."""
        ...

    def embed(self, texts: Sequence[str], model: str | None = None) -> Embeddings:
        """Vectors of shape (len(texts), dimensions), independent of what else is in `texts`.

        Raises InvalidTask (field `texts` or `model`) for wrong types and for a model that does not embed, and
        ModelNotFound.
        """
        ...

    def generate(
        self,
        prompt: str,
        model: str | None = None,
        *,
        system: str | None = None,
        options: GenerateOptions | None = None,
    ) -> Chunks:
        """Answer `prompt`. Raises InvalidTask for wrong types and for a model that does not generate, ModelNotFound."""
        ...

    def chat(
        self, messages: Sequence[Message], model: str | None = None, *, options: GenerateOptions | None = None
    ) -> Chunks:
        """Answer the last of `messages`. Raises what `generate` does."""
        ...

    def load(self, model: str | None = None, *, keep_alive_s: float | None = None) -> None:
        """Bring the model into memory and wait for it. Loaded: nothing but `keep_alive_s` changes (GenerateOptions)."""
        ...

    def unload(self, model: str | None = None) -> None:
        """Free the model's memory; the next use loads it again. Not loaded: nothing happens. Raises ModelNotFound."""
        ...

    def pull(self, model: str) -> Pulls:
        """Fetch a model the engine does not have. Raises ModelNotFound where its source has none of that name."""
        ...

    def close(self) -> None:
        """Give back connections and memory. May be called twice; a later use opens the engine again."""
        ...


def check_model(model: object, present: Sequence[str], engine: str) -> str:
    """The model's name, for None the first of `present`.

    Raises InvalidTask (field `model`) for what is no string, ModelNotFound for what the engine does not have.
    """
    check_name(model)
    if model is None and present:
        return present[0]
    if not isinstance(model, str) or model not in present:
        raise no_such_model(model, present, engine)
    return model


def no_such_model(
    model: object, present: Sequence[str], engine: str, remedy: str = "Name one of them"
) -> ModelNotFound:
    """The error for a model that the engine does not have."""
    have = ", ".join(present) or "none"
    return ModelNotFound(f"the engine {engine!r} has no model {model!r}; it has: {have}. {remedy}")


def unsupported(engine: str, work: str, remedy: str) -> EngineUnsupported:
    """The error for work that the engine never does."""
    return EngineUnsupported(f"the engine {engine!r} {work}; {remedy}")
