"""What an Ollama has: `/api/tags`, `/api/ps` and `/api/show` as models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpu_mesh.domain.device import GB
from gpu_mesh.engines.base import Kind, Model
from gpu_mesh.engines.naming import canonical, kinds_by_name

if TYPE_CHECKING:
    import ollama

__all__ = ["Catalog"]

#: Ollama's words for what a model can do.
CAPABILITIES = {"completion": Kind.GENERATE, "embedding": Kind.EMBED}


class Catalog:
    """Remembers what each model can do, so that it is asked once; a model that was replaced has another digest."""

    def __init__(self) -> None:
        self._kinds: dict[str, frozenset[Kind]] = {}

    def read(self, client: ollama.Client, first: str | None = None) -> tuple[Model, ...]:
        """All models: `first` and the other embedding ones before the rest, else in Ollama's order."""
        present = client.list().models
        loaded = {model.name: model for model in self.loaded(client)}
        found = []
        for entry in present:
            name = canonical(entry.model or "")
            in_memory = loaded.get(name)
            found.append(
                Model(
                    name=name,
                    kinds=self._kinds_of(client, entry),
                    size_gb=in_memory.size_gb if in_memory else _gb(entry.size),
                    vram_gb=in_memory.vram_gb if in_memory else None,
                    loaded=in_memory is not None,
                )
            )
        wanted = None if first is None else canonical(first)
        return tuple(sorted(found, key=lambda model: (model.name != wanted, Kind.EMBED not in model.kinds)))

    def loaded(self, client: ollama.Client) -> tuple[Model, ...]:
        """Those in memory, with what they take there, also where that is more than the model alone."""
        return tuple(
            Model(
                name=canonical(entry.model or entry.name or ""),
                kinds=self._kinds.get(entry.digest or "", frozenset()),
                size_gb=_gb(entry.size),
                vram_gb=None if entry.size_vram is None else entry.size_vram / GB,
                loaded=True,
            )
            for entry in client.ps().models
        )

    def _kinds_of(self, client: ollama.Client, entry: ollama.ListResponse.Model) -> frozenset[Kind]:
        known = self._kinds.get(entry.digest or "")
        if known is not None:
            return known
        import ollama

        try:
            told = client.show(entry.model or "").capabilities
        except (ollama.ResponseError, ValueError):  # removed in between, or a version that shows less
            told = None
        family = (entry.details.family if entry.details else None) or ""
        if told is None:
            return kinds_by_name(entry.model or "", family)
        kinds = frozenset(CAPABILITIES[word] for word in told if word in CAPABILITIES)
        if entry.digest:
            self._kinds[entry.digest] = kinds
        return kinds


def _gb(size: int | None) -> float | None:
    return None if not size else size / GB
