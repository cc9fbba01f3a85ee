"""HTTP load at a fixed rate, whether or not answers come: what a client library takes would be measured as the API's.

A request that finds every connection busy waits for one; that counts, for its latency begins when it was due.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

__all__ = ["Load", "send"]

CONNECTIONS = 64


@dataclass(slots=True)
class Load:
    """What was answered: bodies of those with the status asked for, latencies in s, and other answers."""

    answers: list[dict[str, object]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


async def send(url: str, path: str, body: Mapping[str, object], *, rate: float, seconds: float, status: int) -> Load:
    """POST `body` as JSON, `rate` times a second for so many seconds."""
    parts, load = urlsplit(url), Load()
    raw = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await asyncio.open_connection(parts.hostname, parts.port))

    async def one(due: float) -> None:
        reader, writer = await free.get()
        writer.write(request)
        found, told = await _answer(reader)
        load.latencies.append(time.monotonic() - due)
        free.put_nowait((reader, writer))
        if found == status:
            load.answers.append(json.loads(told))
        else:
            load.refused.append(told.decode(errors="replace"))

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(one(due))
    while not free.empty():
        free.get_nowait()[1].close()
    return load


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of an answer that says how long it is."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
    return int(lines[0].split()[1]), await reader.readexactly(length)
