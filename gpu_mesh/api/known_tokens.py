"""The tokens as this process knows them: asked of Redis at most once a second, and only while it is asked something."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from gpu_mesh.domain.tokens import Book
from gpu_mesh.errors import BrokerUnavailable

__all__ = ["FRESH_S", "STALE_S", "Known"]

logger = logging.getLogger(__name__)

#: What is known is trusted so long without a question, s: a token that is revoked is of no use 2 s later.
FRESH_S = 1.0
#: … and so long where Redis does not answer, which revokes none meanwhile, s.
STALE_S = 30.0
#: How long a request waits for news while what is known may still be trusted, s.
WAIT_S = 0.5
#: A token's last use is told to Redis so often at most, s.
USED_EVERY_S = 60.0


class Known:
    """`ask(used)` gets the book, in a thread, and says which tokens were used; it raises where Redis is away."""

    def __init__(self, ask: Callable[[Collection[str]], Book], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._clock = ask, clock
        self._book: Book | None = None
        self._at = 0.0
        self._closed = False
        self._asking: asyncio.Task[None] | None = None
        self._ask_again_at = 0.0
        self._error: Exception | None = None
        #: Used since Redis was told of it; and when it was told of each.
        self._used: set[str] = set()
        self._told: dict[str, float] = {}

    async def book(self) -> tuple[Book, float]:
        """What there is, and Redis's clock now. Raises BrokerUnavailable where nothing can be trusted."""
        if not self._holds_for(FRESH_S):
            if self._asking is None and self._clock() >= self._ask_again_at:
                self._asking = asyncio.create_task(self._renew())
            if self._asking is not None:
                await asyncio.wait((self._asking,), timeout=WAIT_S if self._holds_for(STALE_S) else None)
        if self._book is None or not self._holds_for(STALE_S):
            raise BrokerUnavailable(f"tokens cannot be checked: {self._error}")
        return self._book, self._now(self._book)

    def last(self) -> tuple[Book, float] | None:
        """What was known last, however long ago, and Redis's clock now; None where nothing ever was."""
        return None if self._book is None else (self._book, self._now(self._book))

    def _now(self, book: Book) -> float:
        return book.now + self._clock() - self._at

    @property
    def is_closed(self) -> bool:
        """Whether a token is needed, as far as is known. A Redis that lost its data opens nothing."""
        return self._closed

    def used(self, token_id: str) -> None:
        """That token was shown just now."""
        if self._clock() - self._told.get(token_id, float("-inf")) > USED_EVERY_S:
            self._used.add(token_id)

    def _holds_for(self, span_s: float) -> bool:
        return self._book is not None and self._clock() - self._at <= span_s

    async def _renew(self) -> None:
        began, used = self._clock(), frozenset(self._used)
        try:
            book = await asyncio.to_thread(self._ask, used)
        except Exception as exc:  # noqa: BLE001  # whatever it is: nothing is known
            self._error, self._ask_again_at = exc, self._clock() + FRESH_S
            logger.warning("tokens cannot be checked: %s", exc, extra={"action": "tokens"})
        else:
            self._book, self._at, self._error = book, began, None
            self._closed = self._closed if book.closed is None else book.closed
            self._used -= used
            self._told = {one: at for one, at in self._told.items() if one in book.tokens} | dict.fromkeys(used, began)
        finally:
            self._asking = None
