"""Stands in for Ollama: its API as the official client speaks it, with models that load, expire, spill and crash.

In a test `with OllamaStub() as stub:`, elsewhere `python tests/support/ollama_stub.py`, which prints its address.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
from stub_answers import answer_tokens, vector
from stub_server import Fault, StubServer, serve

__all__ = ["GB", "OllamaStub", "StubModel"]

GB = 2**30
VERSION = "0.12.6"
#: How long Ollama keeps a model by default, s.
KEEP_ALIVE_S = 300.0
#: Stands for never, in the time a model expires.
FOREVER_S = 3.15e9
_GO_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True)
class StubModel:
    """One model; its size in memory is that on disk."""

    name: str
    size_gb: float
    capabilities: tuple[str, ...] = ("completion",)
    family: str = "gemma4"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    @property
    def details(self) -> dict[str, Any]:
        return {
            "parent_model": "",
            "format": "gguf",
            "family": self.family,
            "families": [self.family],
            "parameter_size": "4B",
            "quantization_level": "Q8_0",
        }


#: The example of SPEC P6, and a second main model that does not fit beside the first.
MODELS = (
    StubModel("gemma4:e4b", 4.5, ("completion", "thinking")),
    StubModel("gemma4:12b", 6.0),
    StubModel("nomic-embed-text:latest", 0.5, ("embedding",), "nomic-bert"),
)


@dataclass
class Loaded:
    """A model in memory."""

    model: StubModel
    vram_gb: float
    expires_at: float
    last_used: float
    #: For how long after each use, s; below 0: for ever.
    keep_s: float = KEEP_ALIVE_S
    busy: int = 0


class OllamaStub(StubServer):
    """An Ollama with 8 GB of GPU memory."""

    knobs = ("token_s", "reply_tokens", "load_s", "vram_gb", "ram_gb", "others_gb", "pull_s", "skew_s", "unload_s")

    def __init__(self, port: int = 0, models: tuple[StubModel, ...] = MODELS) -> None:
        super().__init__(port)
        self.models = {model.name: model for model in models}
        #: What `pull` finds, besides.
        self.library = {"all-minilm:latest": StubModel("all-minilm:latest", 0.1, ("embedding",), "bert")}
        self.load_s = 0.0
        #: How long it embeds what one request holds, s.
        self.embed_s = 0.0
        #: How long a model that is unloaded stays in the list and in memory, s.
        self.unload_s = 0.0
        #: Seconds between two lines of a pull.
        self.pull_s = 0.0
        self.vram_gb = 8.0
        #: Memory for what does not fit on the GPU; 0: then it fails.
        self.ram_gb = 0.0
        #: GPU memory taken by other programs.
        self.others_gb = 0.0
        #: Added to the clock by which models expire, s.
        self.skew_s = 0.0
        self.loaded: dict[str, Loaded] = {}
        self._loading = asyncio.Lock()
        for path, call, method in (
            ("/", self._root, "GET"),
            ("/api/version", self._version, "GET"),
            ("/api/tags", self._tags, "GET"),
            ("/api/ps", self._ps, "GET"),
            ("/api/show", self._show, "POST"),
            ("/api/generate", self._generate, "POST"),
            ("/api/chat", self._chat, "POST"),
            ("/api/embed", self._embed, "POST"),
            ("/api/pull", self._pull, "POST"),
        ):
            self.app.add_api_route(path, call, methods=[method], response_model=None)

    def pass_time(self, seconds: float) -> None:
        """Let models expire as if that time had passed."""
        self.skew_s += seconds

    def forget(self) -> None:
        """A killed Ollama frees its memory."""
        super().forget()
        self.loaded.clear()
        self._loading = asyncio.Lock()

    @property
    def used_gb(self) -> float:
        """GPU memory in use, as NVML would show it."""
        self._expire()
        return self.others_gb + sum(entry.vram_gb for entry in self.loaded.values())

    def error(self, status: int, text: str) -> Response:
        return JSONResponse({"error": text}, status)

    # Lists

    async def _root(self) -> Response:
        return Response("Ollama is running", media_type="text/plain")

    async def _version(self) -> Response:
        return JSONResponse({"version": VERSION})

    async def _tags(self) -> Response:
        return JSONResponse(
            {
                "models": [
                    {
                        "name": model.name,
                        "model": model.name,
                        "modified_at": _time(0.0),
                        "size": int(model.size_gb * GB),
                        "digest": model.digest,
                        "details": model.details,
                    }
                    for model in self.models.values()
                ]
            }
        )

    async def _ps(self) -> Response:
        self._expire()
        return JSONResponse(
            {
                "models": [
                    {
                        "name": entry.model.name,
                        "model": entry.model.name,
                        "size": int(entry.model.size_gb * GB),
                        "digest": entry.model.digest,
                        "details": entry.model.details,
                        "expires_at": _time(entry.expires_at - self._now()),
                        "size_vram": int(entry.vram_gb * GB),
                        "context_length": 4096,
                    }
                    for entry in self.loaded.values()
                ]
            }
        )

    async def _show(self, request: Request) -> Response:
        body = await request.json()
        model = self._known(body.get("model", ""))
        if model is None:
            return self.error(404, f"model '{body.get('model')}' not found")
        return JSONResponse(
            {
                "modelfile": f"FROM {model.name}\n",
                "template": "{{ .Prompt }}",
                "details": model.details,
                "model_info": {"general.architecture": model.family},
                "capabilities": list(model.capabilities),
                "modified_at": _time(0.0),
            }
        )

    # Work

    async def _generate(self, request: Request) -> Response:
        body, failed = await self.take(request)
        return failed or await self._speak(request, body, body.get("prompt") or "", "generate", body.get("prompt"))

    async def _chat(self, request: Request) -> Response:
        body, failed = await self.take(request)
        messages = body.get("messages") or []
        return failed or await self._speak(request, body, messages[-1]["content"] if messages else "", "chat", messages)

    async def _speak(self, request: Request, body: dict[str, Any], prompt: str, how: str, asked: Any) -> Response:
        model, name = self._known(body["model"]), body["model"]
        if model is None:
            return self.error(404, f"model '{name}' not found")
        if not asked and _seconds(body.get("keep_alive")) == 0:
            if (leaving := self.loaded.get(model.name)) is not None:
                leaving.keep_s = self.unload_s
                leaving.expires_at = self._now() + self.unload_s
            self._expire()
            return JSONResponse(self._last(name, how, "unload"))
        if "completion" not in model.capabilities:
            return self.error(400, f'"{name}" does not support {how}')
        if body.get("think") and "thinking" not in model.capabilities:
            return self.error(400, f'"{name}" does not support thinking')
        failed = await self._load(model, body, request)
        if failed is not None:
            return failed
        if not asked:
            return JSONResponse(self._last(name, how, "load"))
        return await self._answer(request, body, model, prompt, how)

    async def _answer(
        self, request: Request, body: dict[str, Any], model: StubModel, prompt: str, how: str
    ) -> Response:
        options, name = body.get("options") or {}, body["model"]
        tokens, reason = answer_tokens(
            prompt, length=self.reply_tokens, limit=options.get("num_predict"), stop=options.get("stop") or ()
        )
        figures = {"prompt_eval_count": len(prompt.split()), "eval_count": len(tokens)}
        if body.get("stream") is False:
            async for _ in self.tokens(request, tokens):
                pass
            return JSONResponse({**self._last(name, how, reason), **figures, **self._said(how, "".join(tokens))})

        async def lines() -> Any:
            entry = self.loaded[model.name]
            entry.busy += 1
            whole = False
            try:
                if body.get("think"):
                    yield _line(self._piece(name, how, "", "Let me see."))
                async for token in self.tokens(request, tokens):
                    if isinstance(token, Fault):
                        if token.kind == "stream_error":
                            yield _line({"error": token.text})
                        elif token.kind == "stream_malformed":
                            yield "no JSON at all\n"
                        return
                    yield _line(self._piece(name, how, token))
                # Settled before the client can know that it is over.
                whole = self._settle(entry, body)
                yield _line({**self._last(name, how, reason), **figures})
            finally:
                if not whole:
                    self._settle(entry, body)

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def _embed(self, request: Request) -> Response:
        body, failed = await self.take(request)
        if failed is not None:
            return failed
        model = self._known(body["model"])
        if model is None:
            return self.error(404, f'model "{body["model"]}" not found, try pulling it first')
        failed = await self._load(model, body, request)
        if failed is not None:
            return failed
        if "embedding" not in model.capabilities:
            return self.error(501, "this model does not support embeddings")
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        texts = [] if texts == [""] else texts
        await self.pause(self.embed_s, request)
        return JSONResponse(
            {
                "model": body["model"],
                "embeddings": [vector(text) for text in texts],
                "total_duration": 1_000_000,
                "load_duration": 1_000,
                "prompt_eval_count": sum(len(text.split()) for text in texts),
            }
        )

    async def _pull(self, request: Request) -> Response:
        body, failed = await self.take(request)
        if failed is not None:
            return failed
        name = body["model"] if ":" in body["model"] else f"{body['model']}:latest"

        async def lines() -> Any:
            yield _line({"status": "pulling manifest"})
            model = self.library.get(name) or self.models.get(name)
            if model is None:
                yield _line({"error": "pull model manifest: file does not exist"})
                return
            whole = False
            try:
                for line in _progress(model):
                    if not await self.pause(self.pull_s, request):
                        return
                    yield line
                self.models[model.name] = model
                whole = True
            finally:
                self.stopped += not whole

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    # Memory

    async def _load(self, model: StubModel, body: dict[str, Any], request: Request) -> Response | None:
        """Bring it into memory, as Ollama does: idle ones make room, what does not fit goes to the CPU."""
        async with self._loading:
            self._expire()
            entry = self.loaded.get(model.name)
            if entry is None:
                for idle in sorted(self.loaded.values(), key=lambda other: other.last_used):
                    if model.size_gb > self.vram_gb - self.used_gb and not idle.busy:
                        del self.loaded[idle.model.name]
                on_gpu = min(model.size_gb, max(0.0, self.vram_gb - self.used_gb))
                if model.size_gb - on_gpu > self.ram_gb:
                    need, have = model.size_gb, on_gpu + self.ram_gb
                    return self.error(
                        500, f"model requires more system memory ({need:.1f} GiB) than is available ({have:.1f} GiB)"
                    )
                if not await self.pause(self.load_s, request):
                    self.stopped += 1
                    return Response(status_code=499)
                entry = self.loaded[model.name] = Loaded(model, on_gpu, self._now() + KEEP_ALIVE_S, self._now())
            self._touch(entry, body)
        return None

    def _touch(self, entry: Loaded, body: dict[str, Any]) -> None:
        """Each use begins its time anew; the time is what a request said last."""
        entry.last_used = self._now()
        asked = _seconds(body.get("keep_alive"))
        if asked is not None:
            entry.keep_s = asked
        entry.expires_at = self._now() + (FOREVER_S if entry.keep_s < 0 else entry.keep_s)

    def _settle(self, entry: Loaded, body: dict[str, Any]) -> bool:
        entry.busy -= 1
        self._touch(entry, body)
        return True

    def _expire(self) -> None:
        for name, entry in list(self.loaded.items()):
            if not entry.busy and entry.expires_at <= self._now():
                del self.loaded[name]

    def _known(self, name: str) -> StubModel | None:
        return self.models.get(name) or self.models.get(f"{name}:latest")

    def _now(self) -> float:
        return time.monotonic() + self.skew_s

    # Pieces

    def _piece(self, name: str, how: str, text: str, thinking: str = "") -> dict[str, Any]:
        return {"model": name, "created_at": _time(0.0), **self._said(how, text, thinking), "done": False}

    def _last(self, name: str, how: str, reason: str) -> dict[str, Any]:
        return {
            **self._piece(name, how, ""),
            "done": True,
            "done_reason": reason,
            "total_duration": 2_000_000,
            "load_duration": 1_000,
            "prompt_eval_duration": 500_000,
            "eval_duration": 1_000_000,
        }

    @staticmethod
    def _said(how: str, text: str, thinking: str = "") -> dict[str, Any]:
        extra = {"thinking": thinking} if thinking else {}
        if how == "chat":
            return {"message": {"role": "assistant", "content": text, **extra}}
        return {"response": text, **extra}


def _progress(model: StubModel) -> Iterator[str]:
    size, digest = int(model.size_gb * GB), f"sha256:{model.digest}"
    for part in range(5):
        status = f"pulling {model.digest[:12]}"
        yield _line({"status": status, "digest": digest, "total": size, "completed": size * part // 4})
    for status in ("verifying sha256 digest", "writing manifest", "success"):
        yield _line({"status": status})


def _line(data: dict[str, Any]) -> str:
    return json.dumps(data) + "\n"


def _time(ahead_s: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=ahead_s)).isoformat().replace("+00:00", "Z")


def _seconds(keep_alive: Any) -> float | None:
    """A number of seconds, or a duration as Go writes it: `5m`, `-1`."""
    if keep_alive is None or isinstance(keep_alive, int | float):
        return keep_alive
    if re.fullmatch(r"-?\d+(\.\d+)?", keep_alive):
        return float(keep_alive)
    return sum(float(count) * _GO_UNITS[unit] for count, unit in re.findall(r"(-?[\d.]+)(ms|[hms])", keep_alive))


if __name__ == "__main__":
    serve(OllamaStub(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
