"""What tests of `llm_inference` share: a mesh whose devices use an Ollama stub, and a reader that remembers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bare_workers import Mesh, mesh
from celery.result import AsyncResult
from ollama_stub import OllamaStub

from gpu_mesh.services.following import Piece, follow
from gpu_mesh.settings import Settings

__all__ = ["LIMIT_S", "Reading", "answering", "ask", "said"]

#: How long an answer may take in a test, s.
LIMIT_S = 20.0
EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def answering(folder: Path, *nodes: str, **env: str) -> Iterator[tuple[Mesh, OllamaStub]]:
    """Workers `gpu0@NODE`, all bound to one stub."""
    with OllamaStub() as stub, mesh(folder) as found:
        urls = {"GPU_MESH_ENGINES": "ollama", "GPU_MESH_ENGINE_URLS": f"gpu0={stub.url}"}
        found.workers(*nodes, **urls, **env)
        yield found, stub


def ask(fleet: Mesh, prompt: str | None = "Hello there", /, *, options: Any = None, **kwargs: Any) -> AsyncResult:
    """Send a question; `options` are those of the send."""
    args = [] if prompt is None else [prompt]
    return fleet.app.send_task("llm_inference", args, kwargs, **(options or {}))


def said(prompt: str, tokens: int) -> str:
    """The stub's answer of so many tokens."""
    words = f"You said: {prompt}".split()
    return " ".join(words[index % len(words)] for index in range(tokens))


class Reading:
    """One reader: its pieces so far, read on with `until` and `end`."""

    def __init__(self, fleet: Mesh, sent: AsyncResult, timeout_s: float = LIMIT_S) -> None:
        settings = Settings(broker_url=fleet.server.url, _env_file=None)
        self.sent = sent
        self.pieces: list[Piece] = []
        self._rest = follow(fleet.app, settings, sent, timeout_s=timeout_s)

    def until(self, condition: Callable[[Piece], bool]) -> Piece:
        """The next piece of that kind."""
        for piece in self._rest:
            self.pieces.append(piece)
            if condition(piece):
                return piece
        raise AssertionError(f"no such piece among {self.pieces}")

    def words(self, count: int) -> None:
        """Read until so many words of the current run are there."""
        self.until(lambda _: len(self.text.split()) >= count)

    def end(self) -> str:
        """Read to the end; the text. Raises what the reader raises."""
        self.pieces += self._rest
        return self.text

    @property
    def text(self) -> str:
        """What counts of it."""
        begins = max((i for i, piece in enumerate(self.pieces) if piece.restart), default=0)
        return "".join(piece.text for piece in self.pieces[begins:])

    @property
    def restarts(self) -> int:
        return sum(piece.restart for piece in self.pieces)


def example_env(fleet: Mesh) -> dict[str, str]:
    """The environment in which an example runs against the mesh."""
    return {**os.environ, **fleet.env(), "PYTHONPATH": str(EXAMPLES)}
