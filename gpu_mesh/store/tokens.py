"""Tokens of the API as Redis keeps them, without their secrets. Times are Redis's, s since the epoch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import redis

from gpu_mesh.domain.tokens import Book, Token
from gpu_mesh.errors import InvalidValue
from gpu_mesh.store import keys, server
from gpu_mesh.store.replies import text

__all__ = ["KEPT", "book", "mark_used", "put", "remove", "reopen", "used"]

#: So many there may be: each API process reads them all once a second while it is asked something.
KEPT = 1000
#: Whether each request needs a token. Said, not left out: a Redis that lost its data opens nothing.
CLOSED, OPEN = "1", "0"


def put(client: redis.Redis, token: Token) -> None:
    """Keep a token; from now on every request needs one. Raises InvalidValue where one of its name is there."""

    def transact(pipe: redis.client.Pipeline) -> None:
        tokens = _read(pipe.hgetall(keys.TOKENS))
        if any(one.name == token.name for one in tokens.values()):
            raise InvalidValue("name", token.name, "there is a token of that name; choose another, or revoke it first")
        if len(tokens) >= KEPT:
            raise InvalidValue("name", token.name, f"{KEPT} tokens are the most there may be; revoke some")
        pipe.multi()
        pipe.hset(keys.TOKENS, token.id, json.dumps(token.to_dict()))
        pipe.set(keys.TOKENS_NEEDED, CLOSED)

    client.transaction(transact, keys.TOKENS)


def remove(client: redis.Redis, token_id: str) -> bool:
    """Forget a token. False where there was none."""
    # No transaction: a Redis that is full refuses those as a whole.
    pipe = client.pipeline(transaction=False)
    pipe.hdel(keys.TOKENS, token_id)
    pipe.hdel(keys.TOKENS_USED, token_id)
    return bool(pipe.execute()[0])


def reopen(client: redis.Redis) -> bool:
    """Need no token any more. False, and nothing is changed, while there are some."""
    done = False

    def transact(pipe: redis.client.Pipeline) -> None:
        nonlocal done
        done = not pipe.hlen(keys.TOKENS)
        pipe.multi()
        if done:
            pipe.set(keys.TOKENS_NEEDED, OPEN)

    client.transaction(transact, keys.TOKENS)
    return done


def book(client: redis.Redis) -> Book:
    """All there is, in one round trip. What is broken is left out."""
    # No transaction: a Redis that is full refuses those as a whole. Where one is made or the last one goes meanwhile, a
    # token is needed for a moment longer.
    pipe = client.pipeline(transaction=False)
    pipe.hgetall(keys.TOKENS)
    pipe.get(keys.TOKENS_NEEDED)
    pipe.time()
    held, needed, time = pipe.execute()
    # One that is broken counts as well: it was made to keep people out.
    closed = True if held else None if needed is None else text(needed) != OPEN
    return Book(_read(held), closed, server.stamp(*time))


def used(client: redis.Redis) -> dict[str, float]:
    """When each was used last, by id, to the minute or so."""
    found = {}
    for name, at in client.hgetall(keys.TOKENS_USED).items():
        try:
            found[text(name)] = float(at)
        except ValueError:
            continue
    return found


def mark_used(client: redis.Redis, ids: Iterable[str], now: float) -> None:
    """Of those that are there still: they were used just now."""
    wanted = list(ids)
    there = client.hmget(keys.TOKENS, wanted) if wanted else []
    marks: dict[Any, Any] = {one: now for one, held in zip(wanted, there, strict=True) if held is not None}
    if marks:
        client.hset(keys.TOKENS_USED, mapping=marks)


def _read(held: Mapping[Any, Any]) -> dict[str, Token]:
    found = {}
    for name, words in held.items():
        try:
            token = Token.from_dict(json.loads(text(words)))
        except (ValueError, TypeError, KeyError):
            continue
        if token.id == text(name):
            found[token.id] = token
    return found
