"""What tasks stream while they run: a Redis stream per task, which holds the text of its current run.

An entry has `run` (which run of the task), `at` (bytes of text and thinking before it in this run), and `text`,
`thinking` or `end` (the state the run ended in). The first entry of a run has none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis
from redis import asyncio as redis_async

from gpu_mesh.store import keys
from gpu_mesh.store.scripts import script

__all__ = ["MAX_ENTRIES", "START", "Entry", "add", "end", "last", "read", "read_async"]

#: Entries a stream holds at most: with 20 a second, those of eight minutes.
MAX_ENTRIES = 10_000
#: Entries read at once.
READ_AT_ONCE = 200
#: Where a stream begins.
START = "0-0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry. `id` is Redis's, rising; sizes in bytes of UTF-8."""

    id: str
    run: int
    at: int = 0
    text: str = ""
    thinking: str = ""
    #: The state the run ended in; None: it goes on.
    end: str | None = None

    @property
    def size(self) -> int:
        """Bytes of text and thinking."""
        return len(self.text.encode()) + len(self.thinking.encode())


def add(
    client: redis.Redis,
    task_id: str,
    *,
    run: int,
    at: int,
    text: str = "",
    thinking: str = "",
    claim: Mapping[str, Any],
    max_bytes: int,
    expires_s: float,
    max_entries: int = MAX_ENTRIES,
) -> int:
    """Add a piece of run `run`, 0 for a run's first one; the run's number, or 0 where it is not the current one.

    `claim` (`worker`, `tag`) is checked, where it is not empty. The oldest pieces go when the run's text is over
    `max_bytes`, or its entries more than `max_entries`. Sent twice, it is added once.
    """
    args = [claim.get("worker", ""), claim.get("tag", ""), run, at, text, thinking, _ms(expires_s)]
    return int(script(client, "stream")(keys=[keys.stream(task_id)], args=[*args, max_bytes, max_entries]))


def end(client: redis.Redis, task_id: str, *, run: int, at: int, state: str, keep_text: bool, expires_s: float) -> bool:
    """Say in which state run `run` ended; False when a later one has begun. Without `keep_text` the text is let go."""
    args = [run, at, state, int(keep_text), _ms(expires_s)]
    return bool(script(client, "stream_end")(keys=[keys.stream(task_id)], args=args))


def read(client: redis.Redis, task_id: str, after: str = START, *, wait_s: float = 0.0) -> list[Entry]:
    """Entries behind the id `after`, the next READ_AT_ONCE; where there is none, waits up to `wait_s` for one."""
    found: Any = client.xread({keys.stream(task_id): after}, count=READ_AT_ONCE, block=_block(wait_s))
    return _entries(found)


async def read_async(
    client: redis_async.Redis, task_id: str, after: str = START, *, wait_s: float = 0.0
) -> list[Entry]:
    """As `read`; whoever waits holds a connection, no thread."""
    found: Any = await client.xread({keys.stream(task_id): after}, count=READ_AT_ONCE, block=_block(wait_s))
    return _entries(found)


def _block(wait_s: float) -> int | None:
    return max(1, round(wait_s * 1000)) if wait_s > 0 else None


def _entries(found: Any) -> list[Entry]:
    # A list of pairs in RESP2, a mapping to lists of lists in RESP3.
    streams = [entries for held in found.values() for entries in held] if isinstance(found, dict) else found
    entries = streams if isinstance(found, dict) else [entry for _, held in streams for entry in held]
    return [_entry(key, fields) for key, fields in entries]


def last(client: redis.Redis, task_id: str) -> Entry | None:
    """The newest entry; None where there is none."""
    found: Any = client.xrevrange(keys.stream(task_id), count=1)
    return _entry(*found[0]) if found else None


def _entry(key: str, fields: Mapping[str, str]) -> Entry:
    return Entry(
        id=key,
        run=int(fields["run"]),
        at=int(fields["at"]),
        text=fields.get("text", ""),
        thinking=fields.get("thinking", ""),
        end=fields.get("end"),
    )


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
