"""Ollama, through its official client. One server is one engine, bound to its address."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from typing import TYPE_CHECKING, Any, TypeVar

from gpu_mesh.engines import failures
from gpu_mesh.engines.base import (
    Ability,
    Chunks,
    Embeddings,
    EngineStatus,
    GenerateOptions,
    Kind,
    Message,
    Model,
    Pull,
    Pulls,
    no_such_model,
    unsupported,
)
from gpu_mesh.engines.checking import checked
from gpu_mesh.engines.connection import CHECK_TIMEOUT_S, CONNECT_TIMEOUT_S, TIMEOUT_S, Connection
from gpu_mesh.engines.importing import unforked
from gpu_mesh.engines.naming import canonical
from gpu_mesh.engines.ollama_catalog import Catalog
from gpu_mesh.engines.ollama_wire import chunk_of, mapped, options_of
from gpu_mesh.engines.options import check_messages, check_name, check_options, check_text, check_texts
from gpu_mesh.engines.rows import embed_all
from gpu_mesh.errors import EngineError, ModelNotFound

if TYPE_CHECKING:
    import httpx
    import ollama

__all__ = ["OllamaEngine"]

logger = logging.getLogger(__name__)
T = TypeVar("T")


class OllamaEngine:
    """Runs models in the Ollama at `url`.

    `timeout_s` is the longest silence while a model works, `check_timeout_s` that of lists and checks. `keep_alive_s`,
    and the models taken where a caller names none, are left to Ollama and to what is loaded where they are None.
    `allow_pull`: a model that is missing is fetched.
    """

    name = "ollama"

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        check_timeout_s: float = CHECK_TIMEOUT_S,
        keep_alive_s: float | None = None,
        embed_model: str | None = None,
        chat_model: str | None = None,
        allow_pull: bool = False,
    ) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._check_timeout_s = check_timeout_s
        self._keep_alive_s = keep_alive_s
        self._defaults = {Kind.EMBED: embed_model, Kind.GENERATE: chat_model}
        self._allow_pull = allow_pull
        self._work = Connection(lambda: self._client(timeout_s))
        self._quick = Connection(lambda: self._client(check_timeout_s))
        self._plain = Connection(self._plain_client)
        self._catalog = Catalog()

    @property
    def abilities(self) -> frozenset[Ability]:
        """All, but for pulling where the setting does not allow it."""
        return frozenset(Ability) - (frozenset() if self._allow_pull else {Ability.PULL})

    def check(self) -> EngineStatus:
        """Ask for its version, its models and what of them is loaded."""
        # The import of the client's package is no part of the answer's time.
        self._quick.get()
        self._plain.get()
        return checked(lambda: (self._version(), self.models()))

    def models(self) -> tuple[Model, ...]:
        """Those of `/api/tags`, loaded or not, embedding ones first, then as Ollama lists them (newest first)."""
        with self._mapped(self._check_timeout_s):
            return self._catalog.read(self._quick.get(), self._defaults[Kind.EMBED])

    def loaded(self) -> tuple[Model, ...]:
        """Those of `/api/ps`."""
        with self._mapped(self._check_timeout_s):
            return self._catalog.loaded(self._quick.get())

    def embed(self, texts: Sequence[str], model: str | None = None) -> Embeddings:
        """Vectors by `/api/embed`; a text longer than the model's context is cut. See Engine.embed."""
        texts = check_texts(texts)
        name = self._resolve(model, Kind.EMBED)

        def ask(some: list[str]) -> Sequence[Sequence[float]]:
            return self._work.get().embed(name, some, keep_alive=self._keep_alive_s).embeddings

        def work() -> Embeddings:
            with self._mapped(self._timeout_s, name):
                return Embeddings(model=name, vectors=embed_all(texts, ask))

        return self._having(name, work)

    def generate(
        self,
        prompt: str,
        model: str | None = None,
        *,
        system: str | None = None,
        options: GenerateOptions | None = None,
    ) -> Chunks:
        """The answer by `/api/generate`, always streamed. See Engine.generate."""
        prompt, chosen = check_text("prompt", prompt), check_options(options)
        instruction = "" if system is None else check_text("system", system)
        check_name(model)

        def begin(name: str) -> Iterator[ollama.GenerateResponse]:
            return self._work.get().generate(
                name,
                prompt,
                system=instruction,
                stream=True,
                raw=chosen.raw,
                think=chosen.think,
                options=options_of(chosen),
                keep_alive=self._keep(chosen.keep_alive_s),
            )

        return self._chunks(model, begin)

    def chat(
        self, messages: Sequence[Message], model: str | None = None, *, options: GenerateOptions | None = None
    ) -> Chunks:
        """The answer by `/api/chat`, always streamed. See Engine.chat."""
        turns, chosen = check_messages(messages), check_options(options)
        check_name(model)

        def begin(name: str) -> Iterator[ollama.ChatResponse]:
            return self._work.get().chat(
                name,
                turns,
                stream=True,
                think=chosen.think,
                options=options_of(chosen),
                keep_alive=self._keep(chosen.keep_alive_s),
            )

        return self._chunks(model, begin)

    def load(self, model: str | None = None, *, keep_alive_s: float | None = None) -> None:
        """As Ollama does for a request without a prompt. See Engine.load."""
        name = self._resolve(model, Kind.GENERATE)

        def work() -> None:
            embeds_only = self._kinds(name) == {Kind.EMBED}
            with self._mapped(self._timeout_s, name):
                if embeds_only:
                    self._work.get().embed(name, "", keep_alive=self._keep(keep_alive_s))
                else:
                    self._work.get().generate(name, keep_alive=self._keep(keep_alive_s))

        self._having(name, work)

    def unload(self, model: str | None = None) -> None:
        """By a request with `keep_alive` 0; Ollama frees the memory soon after. See Engine.unload."""
        check_name(model)
        names = [known.name for known in self.loaded()] if model is None else [self._resolve(model, Kind.GENERATE)]
        for name in names:
            with self._mapped(self._timeout_s, name):
                self._work.get().generate(name, keep_alive=0)

    def pull(self, model: str) -> Pulls:
        """By `/api/pull`, where the setting allows it. See Engine.pull."""
        if not self._allow_pull:
            raise unsupported(self.name, "may fetch no models", "set GPU_MESH_ENGINE_PULL=true, or run `ollama pull`")
        return self._pulls(self._resolve(model, Kind.GENERATE))

    def close(self) -> None:
        """Close the connections; what Ollama has loaded stays."""
        for connection in (self._work, self._quick, self._plain):
            connection.close()

    def _client(self, timeout_s: float) -> ollama.Client:
        with unforked():
            import httpx
            import ollama

            limits = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S))
            return ollama.Client(self.url, timeout=limits, trust_env=not failures.is_loopback(self.url))

    def _plain_client(self) -> httpx.Client:
        with unforked():
            import httpx

            return httpx.Client(
                headers=_gate_key(),
                timeout=self._check_timeout_s,
                trust_env=not failures.is_loopback(self.url),
                follow_redirects=True,
            )

    def _keep(self, keep_alive_s: float | None) -> float | None:
        return self._keep_alive_s if keep_alive_s is None else keep_alive_s

    def _version(self) -> str:
        """Its client has no call for it."""
        with self._mapped(self._check_timeout_s):
            answer = self._plain.get().get(f"{self.url}/api/version")
            if answer.status_code == failures.NOT_FOUND:
                raise failures.malformed(self.name, self.url, f"HTTP {failures.NOT_FOUND} for its version")
            if answer.is_error:
                raise failures.of_answer(self.name, self.url, answer.status_code, answer.text, None)
            return str(answer.json()["version"])

    def _resolve(self, model: str | None, kind: Kind) -> str:
        """The name asked for, else the setting's, else the first that can; to generate, best a loaded one."""
        check_name(model)
        chosen = self._defaults[kind] if model is None else model
        if chosen:
            return canonical(chosen)
        present = self.models()
        if chosen is None:
            able = [known for known in present if kind in known.kinds]
            if kind is Kind.GENERATE:
                able.sort(key=lambda known: not known.loaded)
            if able:
                return able[0].name
        remedy = "Name one of them" if model is not None else f"None of them can {kind}: `ollama pull` one that can"
        raise no_such_model(model, [known.name for known in present], self.name, remedy)

    def _kinds(self, name: str) -> frozenset[Kind]:
        found = next((known for known in self.models() if known.name == name), None)
        if found is None:
            raise self._missing(name)
        return found.kinds

    def _missing(self, name: str) -> ModelNotFound:
        names: list[str] = []
        with contextlib.suppress(EngineError):
            names = [known.name for known in self.models()]
        return no_such_model(name, names, self.name, f"Name one of them, or run `ollama pull {name}` on its machine")

    def _having(self, name: str, work: Callable[[], T]) -> T:
        """`work`, after fetching the model where it is missing and may be fetched."""
        try:
            return work()
        except ModelNotFound:
            if not self._allow_pull:
                raise
        logger.info("fetching %s for %s", name, self.url, extra={"action": "pull", "engine": self.name})
        for _ in self._pulls(name):
            pass
        return work()

    def _pulls(self, name: str) -> Pulls:
        client = self._work.get()
        with closing(_as_generator(client.pull(name, stream=True))) as answers:
            while True:
                with self._mapped(self._timeout_s, name, pulling=True):
                    answer = next(answers, None)
                if answer is None:
                    return
                yield Pull(status=answer.status or "", done_bytes=answer.completed, total_bytes=answer.total)

    def _chunks(self, model: str | None, begin: Callable[[str], Iterator[Any]]) -> Chunks:
        name = self._resolve(model, Kind.GENERATE)

        def first() -> tuple[Iterator[Any], Any]:
            answers = begin(name)
            with self._mapped(self._timeout_s, name):
                return answers, next(answers, None)

        answers, answer = self._having(name, first)
        if answer is None:
            raise failures.malformed(self.name, self.url, "an empty answer")
        with closing(_as_generator(answers)):
            while answer is not None:
                chunk = chunk_of(answer, self.url)
                if chunk.text or chunk.thinking or chunk.done:
                    yield chunk
                if chunk.done:
                    return
                with self._mapped(self._timeout_s, name):
                    answer = next(answers, None)
        raise failures.broke_off(self.name, self.url, "the last piece is missing")

    def _mapped(
        self, limit_s: float, model: str | None = None, *, pulling: bool = False
    ) -> AbstractContextManager[None]:
        return mapped(self.url, limit_s, self._missing, model, pulling=pulling)


def _gate_key() -> dict[str, str]:
    """For an Ollama behind a gate: its client sends the same with all it asks."""
    key = os.environ.get("OLLAMA_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _as_generator(answers: Iterator[T]) -> Any:
    """The client types its generators as iterators; closing one closes the connection, which stops the work."""
    return answers
