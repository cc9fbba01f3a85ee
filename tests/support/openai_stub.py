"""Stands in for a server with OpenAI's API, as vLLM answers; `python tests/support/openai_stub.py` runs it alone."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
from stub_answers import answer_tokens, vector
from stub_server import Fault, StubServer, serve

__all__ = ["OpenAIStub"]

#: What it serves; only the name tells what each can do.
MODELS = ("qwen3-8b", "bge-small-en-v1.5")


class OpenAIStub(StubServer):
    """A server with two models, that asks for `key` where one is given."""

    def __init__(self, port: int = 0, *, key: str | None = None, models: tuple[str, ...] = MODELS) -> None:
        super().__init__(port)
        self.key = key
        self.models = models
        #: The Authorization header of each request.
        self.keys: list[str | None] = []
        for path, call, method in (
            ("/v1/models", self._models, "GET"),
            ("/v1/chat/completions", self._chat, "POST"),
            ("/v1/completions", self._complete, "POST"),
            ("/v1/embeddings", self._embed, "POST"),
        ):
            self.app.add_api_route(path, call, methods=[method], response_model=None)

    def error(self, status: int, text: str) -> Response:
        return JSONResponse({"error": {"message": text, "type": "Error", "param": None, "code": status}}, status)

    async def _models(self, request: Request) -> Response:
        return self._unknown(request, None) or JSONResponse(
            {
                "object": "list",
                "data": [{"id": name, "object": "model", "created": 1, "owned_by": "stub"} for name in self.models],
            }
        )

    async def _chat(self, request: Request) -> Response:
        body, failed = await self.take(request)
        return failed or self._unknown(request, body) or self._answer(request, body, body["messages"][-1]["content"])

    async def _complete(self, request: Request) -> Response:
        body, failed = await self.take(request)
        return failed or self._unknown(request, body) or self._answer(request, body, body["prompt"])

    async def _embed(self, request: Request) -> Response:
        body, failed = await self.take(request)
        failed = failed or self._unknown(request, body)
        if failed is not None:
            return failed
        if "bge" not in body["model"]:
            return self.error(400, "The model does not support Embeddings API")
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        rows = [{"object": "embedding", "index": i, "embedding": vector(text)} for i, text in enumerate(texts)]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        # In any order: the index says which is which.
        return JSONResponse({"object": "list", "data": rows[::-1], "model": body["model"], "usage": usage})

    def _unknown(self, request: Request, body: dict[str, Any] | None) -> Response | None:
        self.keys.append(request.headers.get("authorization"))
        if self.key is not None and self.keys[-1] != f"Bearer {self.key}":
            return self.error(401, "Unauthorized")
        if body is not None and body["model"] not in self.models:
            return self.error(404, f"The model `{body['model']}` does not exist.")
        return None

    def _answer(self, request: Request, body: dict[str, Any], prompt: str) -> Response:
        stop = body.get("stop") or ()
        tokens, reason = answer_tokens(
            prompt,
            length=self.reply_tokens,
            limit=body.get("max_tokens"),
            stop=[stop] if isinstance(stop, str) else stop,
        )
        chat = "messages" in body
        usage = {
            "prompt_tokens": len(prompt.split()),
            "completion_tokens": len(tokens),
            "total_tokens": len(prompt.split()) + len(tokens),
        }
        if not body.get("stream"):
            return JSONResponse({**self._whole(body, chat, "".join(tokens), reason), "usage": usage})

        async def events() -> Any:
            if chat:
                yield _event(self._piece(body, {"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}))
            async for token in self.tokens(request, tokens):
                if isinstance(token, Fault):
                    if token.kind == "stream_error":
                        yield _event({"error": {"message": token.text, "type": "Error", "code": 500}})
                    elif token.kind == "stream_malformed":
                        yield "data: no JSON at all\n\n"
                    return
                yield _event(self._piece(body, _choice(chat, token, None)))
            yield _event(self._piece(body, _choice(chat, "", reason)))
            if (body.get("stream_options") or {}).get("include_usage"):
                yield _event({**self._piece(body), "usage": usage})
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    def _piece(self, body: dict[str, Any], *choices: dict[str, Any]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if "messages" in body else "text_completion"
        created = int(time.time())
        return {"id": "stub-1", "object": kind, "created": created, "model": body["model"], "choices": list(choices)}

    def _whole(self, body: dict[str, Any], chat: bool, text: str, reason: str) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        return {**self._piece(body, choice), "object": "chat.completion" if chat else "text_completion"}


def _choice(chat: bool, text: str, reason: str | None) -> dict[str, Any]:
    said: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
    return {"index": 0, **said, "logprobs": None, "finish_reason": reason}


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


if __name__ == "__main__":
    serve(OpenAIStub())
