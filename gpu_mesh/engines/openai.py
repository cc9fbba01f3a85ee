"""Any server with OpenAI's API (vLLM, llama.cpp, LM Studio), through the official client.

Such a server loads and unloads its models by itself; the API has no word for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gpu_mesh.engines import failures
from gpu_mesh.engines.base import (
    LENGTH,
    STOP,
    Ability,
    Chunk,
    Chunks,
    Embeddings,
    EngineStatus,
    GenerateOptions,
    Kind,
    Message,
    Model,
    Pulls,
    no_such_model,
    unsupported,
)
from gpu_mesh.engines.checking import checked
from gpu_mesh.engines.connection import CHECK_TIMEOUT_S, CONNECT_TIMEOUT_S, TIMEOUT_S, Connection
from gpu_mesh.engines.importing import unforked
from gpu_mesh.engines.naming import kinds_by_name
from gpu_mesh.engines.openai_wire import mapped, options_of, piece_of
from gpu_mesh.engines.options import check_messages, check_name, check_options, check_text, check_texts
from gpu_mesh.engines.rows import embed_all

if TYPE_CHECKING:
    import openai

__all__ = ["OpenAIEngine", "api_url"]

#: Sent where no key is set: the client wants one, and would else send the one in OPENAI_API_KEY to whoever answers.
NO_KEY = "none"
#: Where the API begins.
API_PATH = "/v1"


def api_url(url: str) -> str:
    """The address of the API: `url`, with `/v1` where it has no path."""
    return url if urlsplit(url).path.strip("/") else f"{url.rstrip('/')}{API_PATH}"


class OpenAIEngine:
    """Runs models in the OpenAI-compatible server at `url`.

    `key` is sent to it, where there is one. The rest as for OllamaEngine.
    """

    name = "openai"
    abilities = frozenset({Ability.EMBED, Ability.GENERATE})

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        check_timeout_s: float = CHECK_TIMEOUT_S,
        embed_model: str | None = None,
        chat_model: str | None = None,
    ) -> None:
        self.url: str | None = url
        self._url = url
        self._key = key
        self._timeout_s = timeout_s
        self._check_timeout_s = check_timeout_s
        self._defaults = {Kind.EMBED: embed_model, Kind.GENERATE: chat_model}
        self._work = Connection(lambda: self._client(timeout_s))
        self._quick = Connection(lambda: self._client(check_timeout_s))

    def check(self) -> EngineStatus:
        """Ask for its models; such servers have no common word for their version."""
        self._quick.get()  # the import of the client's package is no part of the answer's time
        return checked(lambda: (None, self.models()))

    def models(self) -> tuple[Model, ...]:
        """Those of `/v1/models`, embedding ones first; what they can do is guessed from their names."""
        with self._mapped(self._check_timeout_s):
            names = [entry.id for entry in self._quick.get().models.list().data]
            if not all(isinstance(name, str) and name for name in names):
                raise ValueError("a model without an id")
        found = [Model(name=name, kinds=kinds_by_name(name), loaded=None) for name in names]
        first = self._defaults[Kind.EMBED]
        return tuple(sorted(found, key=lambda model: (model.name != first, Kind.EMBED not in model.kinds)))

    def loaded(self) -> tuple[Model, ...]:
        """Always raises EngineUnsupported."""
        raise unsupported(self.name, "does not tell what is in memory", "see that server's own tools")

    def embed(self, texts: Sequence[str], model: str | None = None) -> Embeddings:
        """Vectors by `/v1/embeddings`; a text longer than the model's context may be refused. See Engine.embed."""
        texts = check_texts(texts)
        name = self._resolve(model, Kind.EMBED)

        def ask(some: list[str]) -> list[list[float]]:
            # The client would ask for base64, which not every server can.
            answer = self._work.get().embeddings.create(model=name, input=some, encoding_format="float")
            return [row.embedding for row in sorted(answer.data, key=lambda row: row.index)]

        with self._mapped(self._timeout_s, name):
            return Embeddings(model=name, vectors=embed_all(texts, ask))

    def generate(
        self,
        prompt: str,
        model: str | None = None,
        *,
        system: str | None = None,
        options: GenerateOptions | None = None,
    ) -> Chunks:
        """The answer by `/v1/chat/completions`, with `options.raw` by `/v1/completions`. See Engine.generate."""
        prompt, chosen = check_text("prompt", prompt), check_options(options)
        instruction = None if system is None else check_text("system", system)
        check_name(model)
        if chosen.raw:
            text = prompt if instruction is None else f"{instruction}\n\n{prompt}"
            return self._chunks(
                model,
                lambda name: self._work.get().completions.create(
                    model=name, prompt=text, stream=True, stream_options={"include_usage": True}, **options_of(chosen)
                ),
            )
        turns = [] if instruction is None else [{"role": "system", "content": instruction}]
        return self._answer([*turns, {"role": "user", "content": prompt}], model, chosen)

    def chat(
        self, messages: Sequence[Message], model: str | None = None, *, options: GenerateOptions | None = None
    ) -> Chunks:
        """The answer by `/v1/chat/completions`, always streamed. See Engine.chat."""
        turns, chosen = check_messages(messages), check_options(options)
        check_name(model)
        return self._answer(turns, model, chosen)

    def load(self, model: str | None = None, *, keep_alive_s: float | None = None) -> None:
        """Always raises EngineUnsupported."""
        raise unsupported(self.name, "loads its models by itself", "start that server with the model")

    def unload(self, model: str | None = None) -> None:
        """Always raises EngineUnsupported."""
        raise unsupported(self.name, "does not unload models", "stop that server to free the memory, or use Ollama")

    def pull(self, model: str) -> Pulls:
        """Always raises EngineUnsupported."""
        raise unsupported(self.name, "fetches no models", "fetch the model with that server's own tools")

    def close(self) -> None:
        """Close the connections."""
        self._work.close()
        self._quick.close()

    def _client(self, timeout_s: float) -> openai.OpenAI:
        with unforked():
            import openai

            limits = openai.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S))
            client = openai.OpenAI(
                base_url=api_url(self._url),
                api_key=self._key or NO_KEY,
                max_retries=0,
                timeout=limits,
                http_client=openai.DefaultHttpxClient(timeout=limits, trust_env=not failures.is_loopback(self._url)),
            )
            _ = client.models  # it imports that with its first use
        # From the environment: meant for OpenAI itself.
        client.organization = client.project = None
        return client

    def _resolve(self, model: str | None, kind: Kind) -> str:
        """The name asked for, else the setting's, else the first that seems to do this kind of work.

        Always looked up: llama.cpp answers for any name with the one model it has.
        """
        check_name(model)
        present = self.models()
        names = [known.name for known in present]
        chosen = self._defaults[kind] if model is None else model
        if chosen is None and present:
            return next((known.name for known in present if kind in known.kinds), names[0])
        if chosen not in names or chosen is None:
            raise no_such_model(chosen, names, self.name)
        return chosen

    def _answer(self, turns: list[dict[str, str]], model: str | None, chosen: GenerateOptions) -> Chunks:
        messages: Any = turns

        def begin(name: str) -> Any:
            return self._work.get().chat.completions.create(
                model=name,
                messages=messages,
                stream=True,
                stream_options={"include_usage": True},
                **options_of(chosen),
            )

        return self._chunks(model, begin)

    def _chunks(self, model: str | None, begin: Callable[[str], Any]) -> Chunks:
        name = self._resolve(model, Kind.GENERATE)
        with self._mapped(self._timeout_s, name):
            answers = begin(name)
        reason = prompt_tokens = output_tokens = answer = None
        with answers:
            while True:
                with self._mapped(self._timeout_s, name):
                    following = next(answers, None)
                    if following is None:
                        break
                    answer = following
                    text, thinking, ended = piece_of(answer)
                    reason = ended or reason
                    if answer.usage is not None:
                        prompt_tokens, output_tokens = answer.usage.prompt_tokens, answer.usage.completion_tokens
                if text or thinking:
                    yield Chunk(text=text, thinking=thinking)
        if answer is None:
            raise failures.malformed(self.name, self._url, "an answer without pieces")
        if reason is None:
            raise failures.broke_off(self.name, self._url, "the last piece is missing")
        yield Chunk(
            text="",
            done=True,
            reason=LENGTH if reason == LENGTH else STOP,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
        )

    def _mapped(self, limit_s: float, model: str | None = None) -> AbstractContextManager[None]:
        return mapped(self._url, limit_s, model)
