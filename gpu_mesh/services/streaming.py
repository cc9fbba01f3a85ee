"""Sending what a task says while it says it: in batches, from a thread of its own, so that no Redis holds the job up.

What the thread cannot send it keeps, up to `GPU_MESH_STREAM_MAX_MB`; the oldest of it is dropped first. Readers see the
hole by the bytes that went before, and take the rest from the result (services/following).
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.settings import settings
from gpu_mesh.store import streams
from gpu_mesh.store.client import mapped_errors, process_client

__all__ = ["BATCH_S", "Put", "StreamWriter", "end_of_killed", "end_stream", "put_to_redis"]

logger = logging.getLogger(__name__)

#: What arrives within this time goes as one entry, s; the first piece goes at once.
BATCH_S = 0.05
#: The most of one entry, in bytes, unless a single piece is longer.
ENTRY_BYTES = 65_536
#: How long Redis's answer may take, s; and the pause after one that did not come, s.
TIMEOUT_S, RETRY_S = 2.0, 1.0
#: How long the end of a run waits for what is unsent, s: the result has it all.
CLOSE_S = 2.0
#: How long the word of the end is kept where the result has the text, s: 4 KB, and late readers look at the result.
LINGER_S = 10.0
#: Bytes in a MB.
_MB = 1_000_000


class Put(Protocol):
    """Adds a piece to the stream, as store.streams.add does. Raises BrokerUnavailable."""

    def __call__(self, *, run: int, at: int, text: str, thinking: str) -> int: ...


@dataclass(frozen=True, slots=True)
class _Batch:
    at: int
    text: str = ""
    thinking: str = ""


class StreamWriter:
    """One run's side of a stream. `write` never blocks; with `with`, the rest is sent at the end."""

    def __init__(
        self,
        task_id: str,
        put: Put,
        *,
        max_bytes: int,
        batch_s: float = BATCH_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self.task_id = task_id
        #: The run's number in the stream; 0 until Redis knows of it.
        self.run = 0
        #: Bytes said so far.
        self.said = 0
        #: Whether a later run writes this stream by now.
        self.lost = False
        self._put, self._max_bytes = put, max_bytes
        self._batch_s, self._retry_s = batch_s, retry_s
        self._pieces: deque[tuple[int, str, str]] = deque()
        self._held = 0
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="stream", daemon=True)

    def __enter__(self) -> StreamWriter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(CLOSE_S)

    @property
    def is_done(self) -> bool:
        """Whether all is sent that will be; False while a Redis that is away is waited for."""
        return not self._thread.is_alive()

    def write(self, text: str = "", thinking: str = "") -> None:
        """Have it sent soon."""
        size = len(text.encode()) + len(thinking.encode())
        if not size or self.lost:
            return
        with self._changed:
            self._pieces.append((size, text, thinking))
            self.said += size
            self._held += size
            while self._held > self._max_bytes and len(self._pieces) > 1:
                self._held -= self._pieces.popleft()[0]
            self._changed.notify()

    def _work(self) -> None:
        """First an empty piece: who read an earlier run learns at once that the text begins anew."""
        batch: _Batch | None = _Batch(0)
        while batch is not None and self._send(batch):
            self._closing.wait(self._batch_s)
            batch = self._next()

    def _next(self) -> _Batch | None:
        """What is to be sent, once there is something; None when there is nothing and no more to come."""
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._closing.is_set())
            if not self._pieces:
                return None
            at, size = self.said - self._held, 0
            taken: list[tuple[int, str, str]] = []
            while self._pieces and (not taken or size + self._pieces[0][0] <= ENTRY_BYTES):
                taken.append(self._pieces.popleft())
                size += taken[-1][0]
            self._held -= size
        return _Batch(at, "".join(text for _, text, _ in taken), "".join(thinking for _, _, thinking in taken))

    def _send(self, batch: _Batch) -> bool:
        """Whether to go on. A Redis that is away is tried again, the same batch: it may have arrived."""
        away = False
        while True:
            try:
                run = self._put(run=self.run, at=batch.at, text=batch.text, thinking=batch.thinking)
            except BrokerUnavailable as exc:
                if not away:
                    logger.warning("%s streams later, going on: %s", self.task_id, exc, extra={"action": "stream"})
                away = True
                if self._closing.wait(self._retry_s):
                    return False
                continue
            except Exception:
                # Its text is in the result too: no reason to lose the job.
                logger.exception("%s streams no more", self.task_id, extra={"action": "stream"})
                return False
            self.lost = run == 0
            self.run = run or self.run
            return not self.lost


def put_to_redis(task_id: str, claim: Mapping[str, Any]) -> Put:
    """Adds to the task's stream, while `claim` is held; {}: unclaimed."""

    def put(*, run: int, at: int, text: str, thinking: str) -> int:
        current = settings()
        with mapped_errors(current):
            return streams.add(
                process_client(os.getpid(), TIMEOUT_S),
                task_id,
                run=run,
                at=at,
                text=text,
                thinking=thinking,
                claim=claim,
                max_bytes=int(current.stream_max_mb * _MB),
                expires_s=current.stream_expires_s,
            )

    return put


def end_stream(writer: StreamWriter, state: str, *, keep_text: bool) -> None:
    """Tell readers that the run has ended, its result stored. One that is not told sees it by the task's state."""
    if not writer.run or writer.lost or not writer.is_done:
        return
    current = settings()
    try:
        with mapped_errors(current):
            streams.end(
                process_client(os.getpid(), TIMEOUT_S),
                writer.task_id,
                run=writer.run,
                at=writer.said,
                state=state,
                keep_text=keep_text,
                expires_s=current.stream_expires_s if keep_text else LINGER_S,
            )
    except BrokerUnavailable as exc:
        logger.warning("%s: its stream is left to expire: %s", writer.task_id, exc, extra={"action": "stream"})


def end_of_killed(task_id: str, state: str) -> None:
    """Tell readers of the end of a run that was killed and whose task keeps no result: nothing else would."""
    current = settings()
    try:
        with mapped_errors(current):
            client = process_client(os.getpid(), TIMEOUT_S)
            last = streams.last(client, task_id)
            run, at = (last.run, last.at + last.size) if last else (0, 0)
            expires_s = current.stream_expires_s
            streams.end(client, task_id, run=run, at=at, state=state, keep_text=True, expires_s=expires_s)
    except BrokerUnavailable as exc:
        logger.warning("%s: its readers wait on: %s", task_id, exc, extra={"action": "stream"})
