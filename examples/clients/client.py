"""A client of the mesh over HTTP, which needs httpx and nothing of the mesh: copy it into your application.

GPU_MESH_URL=http://127.0.0.1:8001 GPU_MESH_TOKEN=… python client.py
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx

#: Tries of a request, where the mesh is not there or busy; longest pause between two, s.
TRIES, LONGEST_PAUSE_S = 6, 30.0
#: How long one request may wait for a task's end, s.
WAIT_S = 30


class Problem(Exception):
    """The mesh refuses a request: `status`, and `errors` with `field`, `value` and `remedy` of each."""

    def __init__(self, answer: httpx.Response) -> None:
        is_ours = answer.headers.get("content-type", "").startswith("application/problem+json")
        told: dict[str, Any] = answer.json() if is_ours else {"detail": answer.text[:200]}
        super().__init__(f"{answer.status_code} {told['detail']}")
        self.status, self.errors = answer.status_code, told.get("errors", [])


class MeshClient:
    """One mesh; made once, used from any thread."""

    def __init__(self, url: str, token: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(10, read=WAIT_S + 15))

    def submit(self, task_type: str, *args: Any, key: str | None = None, **body: Any) -> str:
        """Have a task done; its id. However often this is tried, the task is sent once: `key` says which it is."""
        told = {"Idempotency-Key": key or str(uuid.uuid4())}
        sent = self._ask("POST", "/tasks/submit", json={"task_type": task_type, "args": args, **body}, headers=told)
        return str(sent["task_id"])

    def wait(self, task_id: str) -> dict[str, Any]:
        """The task, once it has ended: `state`, `result`, `error`."""
        while not (task := self._ask("GET", f"/tasks/{task_id}", params={"wait": WAIT_S}))["ended"]:
            pass
        return task

    def cancel(self, task_id: str) -> dict[str, Any]:
        """Take a task back: what it `was`."""
        return self._ask("DELETE", f"/tasks/{task_id}")

    def stream(self, task_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """What a task says, as it says it: `piece` {"text", "thinking"}, `restart`, `progress`; last `done`, `error`.

        A connection that breaks is opened again, and goes on where it was.
        """
        last_id, attempt = "", 0
        while True:
            met: httpx.Response | httpx.TransportError = httpx.RemoteProtocolError("the stream broke off")
            told = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
            try:
                with self._http.stream("GET", f"/tasks/{task_id}/stream", headers=told) as answer:
                    if not answer.is_success:
                        met, _ = answer, answer.read()
                    for name, data, event_id in events(answer.iter_lines()) if answer.is_success else ():
                        last_id, attempt = event_id or last_id, 0
                        yield name, data
                        if name in ("done", "error"):
                            return
            except httpx.TransportError as exc:
                met = exc
            attempt = self._pause(met, attempt)

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        attempt = 0
        met: httpx.Response | httpx.TransportError
        while True:
            try:
                met = self._http.request(method, path, **request)
                if met.is_success:
                    return dict(met.json())
            except httpx.TransportError as exc:
                met = exc
            attempt = self._pause(met, attempt)

    def _pause(self, met: httpx.Response | httpx.TransportError, attempt: int) -> int:
        """Wait before the next try; its number. Raises what another try would not change."""
        asked = ""
        if isinstance(met, httpx.Response):
            if attempt + 1 == TRIES or met.status_code not in (429, 502, 503, 504):
                raise Problem(met)
            asked = met.headers.get("Retry-After", "")
        elif attempt + 1 == TRIES:
            raise met
        pause_s = min(float(asked) if asked.isdigit() else 0.5 * 2**attempt, LONGEST_PAUSE_S)
        print(f"the mesh is busy or away: again in {pause_s:g} s")
        time.sleep(pause_s)
        return attempt + 1


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Server-sent events: name, data, and the id to go on behind."""
    told: dict[str, str] = {}
    for line in lines:
        field, _, value = line.partition(":")
        if field:
            told[field] = value.removeprefix(" ")
        elif not line:
            if "data" in told:
                yield told.get("event", "message"), json.loads(told["data"]), told.get("id", "")
            told = {}


def main() -> None:
    """All that the class can do, once."""
    mesh = MeshClient(os.environ.get("GPU_MESH_URL", "http://127.0.0.1:8001"), os.environ.get("GPU_MESH_TOKEN"))

    vectors = mesh.submit("embeddings", ["How do I pay?", "Where is my parcel?"], business="internal", priority=7)
    task = mesh.wait(vectors)
    print(f"{vectors} {task['state']}: {task['result']['count']} vectors of {task['result']['dimensions']} dimensions")

    chat = mesh.submit("llm_inference", "Say hello", business="customer", requirements={"memory_gb": 1})
    said = ""
    for name, data in mesh.stream(chat):
        said = "" if name == "restart" else said + data.get("text", "")
        if name in ("done", "error"):
            print(f"{chat} {data['state']}: {said}")

    key = str(uuid.uuid4())
    later, again = (mesh.submit("test", countdown=600, key=key) for _ in range(2))
    print(f"{later} sent twice, there once: {later == again}")
    print(f"{later} cancelled, it was {mesh.cancel(later)['was']}: {mesh.wait(later)['state']}")
    try:
        mesh.submit("embeddings", ["a text"], priority=11)
    except Problem as exc:
        print(f"refused: {exc.status} {exc.errors[0]['field']}={exc.errors[0]['value']}")


if __name__ == "__main__":
    main()
