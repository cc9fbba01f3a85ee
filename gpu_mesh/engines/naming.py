"""What a model's name tells of it."""

from __future__ import annotations

import re

from gpu_mesh.engines.base import Kind

__all__ = ["canonical", "kinds_by_name"]

#: The tag Ollama means where none is written.
DEFAULT_TAG = ":latest"

#: Words of the names that embedding models go by.
_EMBEDDERS = re.compile(
    r"embed|bert|minilm|(^|[-_/])(bge|gte|e5|uae|mpnet|sfr|arctic-embed|wordllama)([-_.:]|$)", re.IGNORECASE
)


def canonical(name: str) -> str:
    """A model's name in Ollama without the tag that goes without saying: `gemma4:latest` is `gemma4`."""
    return name.removesuffix(DEFAULT_TAG)


def kinds_by_name(*names: str) -> frozenset[Kind]:
    """What a model of that name (and family) can likely do: a guess, where the server does not tell."""
    embeds = any(_EMBEDDERS.search(name) for name in names)
    return frozenset({Kind.EMBED if embeds else Kind.GENERATE})
