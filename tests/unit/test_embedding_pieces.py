"""An embeddings run that yields keeps the pieces that are done (issue 5 §5)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_mesh.engines.base import Embeddings
from gpu_mesh.errors import CheckpointTooLarge
from gpu_mesh.tasks.checkpointing import Preempted
from gpu_mesh.tasks.embeddings import PIECE, _embed

TEXTS = [f"text {number}" for number in range(3 * PIECE - 5)]


class Engine:
    """A vector for each text, and what it was asked for."""

    def __init__(self, model: str = "m", dimensions: int = 2) -> None:
        self.model, self.dimensions = model, dimensions
        self.asked: list[str] = []

    def embed(self, texts: list[str], model: str) -> Embeddings:
        self.asked += texts
        rows = [[float(text.split()[1])] * self.dimensions for text in texts]
        return Embeddings(model=self.model, vectors=np.asarray(rows, dtype=np.float32).reshape(-1, self.dimensions))


class Run:
    """A run's side of checkpoints: asked to yield after so many pieces."""

    def __init__(self, yields_at: int | None = None, restored: Any = None, too_large: bool = False) -> None:
        self.restored, self.too_large = restored, too_large
        self.request = SimpleNamespace(id="t")
        self._left = yields_at

    @property
    def should_yield(self) -> bool:
        if self._left is None:
            return False
        self._left -= 1
        return self._left <= 0

    def checkpoint(self, state: Any) -> None:
        if self.too_large:
            raise CheckpointTooLarge("state", "2 MB", "less")
        self.restored = state
        raise Preempted("work waits", counts=False)


def embed(run: Run, engine: Engine, encoding: str = "base64") -> dict[str, Any]:
    use = SimpleNamespace(engine=engine, model="m", note_footprint=lambda: None)
    return _embed(run, TEXTS, use, encoding)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_it_goes_on_after_the_pieces_that_are_done(encoding):
    """No text is embedded twice, and the result is that of a run in one go."""
    first, second = Engine(), Engine()
    run = Run(yields_at=2)
    with pytest.raises(Preempted):
        embed(run, first, encoding)
    result = embed(Run(restored=run.restored), second, encoding)
    assert (first.asked, second.asked) == (TEXTS[: 2 * PIECE], TEXTS[2 * PIECE :])
    assert result == embed(Run(), Engine(), encoding)
    assert result["count"] == len(TEXTS)


@pytest.mark.parametrize("engine", [Engine(model="n"), Engine(dimensions=3)])
def test_another_model_begins_anew(engine):
    """All vectors of a result are one model's."""
    run = Run(yields_at=1)
    with pytest.raises(Preempted):
        embed(run, Engine())
    result = embed(Run(restored=run.restored), engine)
    assert (result["model"], result["dimensions"]) == (engine.model, engine.dimensions)
    assert engine.asked[-len(TEXTS) :] == TEXTS


def test_what_cannot_be_kept_is_finished():
    """A part larger than a checkpoint may be goes on: what was made would be lost."""
    engine = Engine()
    assert embed(Run(yields_at=1, too_large=True), engine)["count"] == len(TEXTS)
    assert engine.asked == TEXTS
