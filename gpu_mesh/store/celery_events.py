"""Celery's own events, as its workers and senders publish them in Redis: kombu's fan-out, which is a PUBLISH."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

from redis import asyncio as redis_async

__all__ = ["listen"]

logger = logging.getLogger(__name__)

#: How long one look at the connection waits, s.
LOOK_S = 1.0


async def listen(client: redis_async.Redis, exchange: str) -> AsyncIterator[list[dict[str, Any]] | None]:
    """None once it listens, then the events of each message; an empty list when nothing came for LOOK_S.

    Raises redis-py's errors when the connection is lost: events may have been missed then.
    """
    database = client.connection_pool.connection_kwargs.get("db") or 0
    async with client.pubsub() as pubsub:
        await pubsub.psubscribe(f"/{database}.{exchange}/*")
        while True:
            message = await pubsub.get_message(timeout=LOOK_S)
            if message is None:
                yield []
            elif message["type"] == "psubscribe":
                yield None
            elif message["type"] == "pmessage":
                yield _events(message["data"])


def _events(raw: str) -> list[dict[str, Any]]:
    try:
        message = json.loads(raw)
        body = message["body"]
        if message["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(body)
        told = json.loads(body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        logger.warning("an event cannot be read: %s", exc, extra={"action": "event"})
        return []
    return [event for event in (told if isinstance(told, list) else [told]) if isinstance(event, dict)]
