"""The engine in this process: embeddings on the CPU with wordllama, whose weights come with its package.

No GPU, no server, no network. A text's vector is the mean of its tokens' vectors, scaled to length 1.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gpu_mesh.engines.base import (
    Ability,
    Chunks,
    Embeddings,
    EngineStatus,
    GenerateOptions,
    Kind,
    Message,
    Model,
    Pulls,
    check_model,
    check_texts,
    unsupported,
)
from gpu_mesh.engines.checking import checked
from gpu_mesh.errors import EngineUnavailable, EngineUnsupported

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LOCAL", "LocalEngine"]

logger = logging.getLogger(__name__)

#: Models by name → dimensions, the default first. The weights were trained so that their first 64 and 128
#: dimensions are models too (Matryoshka); all share the one set of weights.
MODELS = {"wordllama-256": 256, "wordllama-128": 128, "wordllama-64": 64}

#: Dimensions of the weights in the package.
WEIGHT_DIMENSIONS = 256

#: Memory of the loaded weights and tokenizer, in GB (2^30 bytes): measured with wordllama 0.4, rounded up.
SIZE_GB = 0.05

#: Tokens whose vectors are summed at once: bounds the memory for a long text to 8 MB.
TOKENS_AT_ONCE = 8192

# One lock for all: the import below touches the root logger.
_loading = threading.Lock()


def _renew_lock() -> None:
    """A child forked while another thread was loading would wait for that thread for ever."""
    global _loading
    _loading = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@dataclass(frozen=True, slots=True, eq=False)
class _Words:
    """A loaded model: token ids of a text, and the tokens' vectors of shape (vocabulary, WEIGHT_DIMENSIONS)."""

    tokens: Callable[[str], list[int]]
    vectors: NDArray[np.float32]


class LocalEngine:
    """Embeds with wordllama; loads it on first use. Not able to generate."""

    name = "local"
    url: str | None = None
    abilities = frozenset({Ability.EMBED, Ability.LOADED, Ability.LOAD, Ability.UNLOAD})

    def __init__(self, package: str = "wordllama") -> None:
        self._package = package
        self._words: _Words | None = None
        self._failed = False

    def check(self) -> EngineStatus:
        """See whether the package is here; when the last load failed, whether it loads now."""

        def ask() -> tuple[str | None, tuple[Model, ...]]:
            if self._failed:
                self._load()
            return None, self.models()

        return replace(checked(ask), version=_version(self._package))

    def models(self) -> tuple[Model, ...]:
        """The models of the weights in the package; they are loaded and unloaded together."""
        self._folder()
        loaded, kinds = self._words is not None, frozenset({Kind.EMBED})
        return tuple(Model(name=name, kinds=kinds, size_gb=SIZE_GB, loaded=loaded) for name in MODELS)

    def loaded(self) -> tuple[Model, ...]:
        """All of them or none."""
        return tuple(model for model in self.models() if model.loaded)

    def embed(self, texts: Sequence[str], model: str | None = None) -> Embeddings:
        """Vectors of the texts, bit for bit the same whatever else is in `texts`. See Engine.embed."""
        texts = check_texts(texts)
        model = check_model(model, tuple(MODELS), self.name)
        words = self._load()
        import numpy as np

        from gpu_mesh.engines.vectors import unit

        sums = np.zeros((len(texts), MODELS[model]))
        for row, text in enumerate(texts):
            # One by one: as fast as the tokenizer's batches, and a long text does not pad all others.
            if text.strip():
                sums[row] = _sum(words, text)[: MODELS[model]]
        return Embeddings(model=model, vectors=unit(sums))

    def generate(
        self,
        prompt: str,
        model: str | None = None,
        *,
        system: str | None = None,
        options: GenerateOptions | None = None,
    ) -> Chunks:
        """Always raises EngineUnsupported."""
        raise _embeds_only()

    def chat(
        self, messages: Sequence[Message], model: str | None = None, *, options: GenerateOptions | None = None
    ) -> Chunks:
        """Always raises EngineUnsupported."""
        raise _embeds_only()

    def load(self, model: str | None = None, *, keep_alive_s: float | None = None) -> None:
        """Load the weights, for all models; they stay, whatever `keep_alive_s` says. See Engine.load."""
        check_model(model, tuple(MODELS), self.name)
        self._load()

    def unload(self, model: str | None = None) -> None:
        """Free the weights, for all models. See Engine.unload."""
        check_model(model, tuple(MODELS), self.name)
        self._words = None

    def pull(self, model: str) -> Pulls:
        """Always raises EngineUnsupported."""
        raise unsupported(self.name, "fetches no models", f"its models are {', '.join(MODELS)}")

    def close(self) -> None:
        """Free the weights."""
        self._words = None

    def _folder(self) -> Path:
        spec = find_spec(self._package)
        if spec is None or spec.origin is None:
            raise EngineUnavailable(
                f"the local engine needs the package {self._package!r}, which is not installed here; "
                f"run `pip install {self._package}`"
            )
        return Path(spec.origin).parent

    def _load(self) -> _Words:
        words = self._words
        if words is not None:
            return words
        with _loading:
            words = self._words
            if words is None:
                words = self._words = self._read()
        return words

    def _read(self) -> _Words:
        started = time.perf_counter()
        folder = self._folder()
        try:
            words = _read(self._package, folder)
        # The tokenizer raises plain Exception for a damaged file.
        except Exception as error:
            self._failed = True
            raise EngineUnavailable(
                f"the local engine cannot load {self._package!r} ({type(error).__name__}: {error}); "
                f"run `pip install --force-reinstall {self._package}`"
            ) from error
        self._failed = False
        took = (time.perf_counter() - started) * 1000
        logger.info("loaded %s in %.0f ms", self._package, took, extra={"action": "load", "engine": self.name})
        return words


def _read(package: str, folder: Path) -> _Words:
    """Import the package and read its weights, from `folder` only."""
    # Else the tokenizer warns in every pool child that is forked after its first use.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with _root_logger_untouched():
        module = importlib.import_module(package)
    # Without `cache_dir` the loader misses the tokenizer next to it and would download one.
    inference = module.WordLlama.load(cache_dir=folder, dim=WEIGHT_DIMENSIONS, disable_download=True)
    tokenizer = inference.tokenizer
    return _Words(lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids), inference.embedding)


def _sum(words: _Words, text: str) -> NDArray[np.float64]:
    """Sum of the vectors of the text's tokens, shape (WEIGHT_DIMENSIONS,)."""
    import numpy as np

    tokens = words.tokens(text)
    parts = (tokens[i : i + TOKENS_AT_ONCE] for i in range(0, len(tokens), TOKENS_AT_ONCE))
    total = np.zeros(WEIGHT_DIMENSIONS)
    for part in parts:
        total += words.vectors[part].sum(axis=0, dtype=np.float64)
    return total


@contextmanager
def _root_logger_untouched() -> Iterator[None]:
    """wordllama calls logging.basicConfig when imported, which does nothing once the root has a handler."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _embeds_only() -> EngineUnsupported:
    return unsupported(
        LocalEngine.name,
        "only embeds",
        "to generate text run Ollama on a machine of the mesh and see with `gpu-mesh doctor` whether it is found",
    )


#: This process's: it opens nothing until it is used.
LOCAL = LocalEngine()
