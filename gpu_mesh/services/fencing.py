"""Whether a run's claim is still its worker's: a late result of a job that runs elsewhere by now is dropped.

While the lease surely holds, nobody else can have the claim and nobody is asked; the worker's parent writes on the
board until when that is. After a freeze, or when the lease could not be renewed, Redis says.
"""

from __future__ import annotations

import os

from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.services.board import BOARD
from gpu_mesh.settings import settings
from gpu_mesh.store import claims
from gpu_mesh.store.client import mapped_errors, process_client

__all__ = ["still_ours"]

#: How long an answer may take, s.
TIMEOUT_S = 5.0


def still_ours(worker: str, tag: str, asked_at: float | None = None) -> bool:
    """Whether `worker` holds the claim, which it asked for at `asked_at` (s, monotonic; None: unknown).

    While Redis is away, as far as we know: nobody else can claim either.
    """
    if asked_at is not None and BOARD.covers(asked_at):
        return True
    current = settings()
    try:
        with mapped_errors(current):
            return claims.holds(process_client(os.getpid(), TIMEOUT_S), worker, tag)
    except BrokerUnavailable:
        return True
