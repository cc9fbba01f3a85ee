"""The demo's batch work that makes room for a user: it sorts vectors into topics, and saves how far it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery import shared_task

from gpu_mesh.engines.vectors import decode
from gpu_mesh.tasks.base import GpuTask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["cluster", "topics"]

#: Rounds of one start at most.
ROUNDS = 10


@shared_task(name="demo.topics", bind=True, queue="ai-batch", memory_gb=0.5)
def topics(self: GpuTask, vectors: str, dimensions: int, count: int, work_s: float) -> dict[str, Any]:
    """Sort vectors (base64, as `embeddings` gives them) into `count` topics: the best of the random starts for which
    `work_s` of work is enough. Returns each vector's topic as `members`, and as `runs` which worker did which starts.
    """
    points = decode(vectors, dimensions)
    state = self.restored or {"done": 0, "spent_s": 0.0, "nearness": -1.0, "members": [], "runs": []}
    earlier, first = state["runs"], state["done"] + 1
    while state["spent_s"] < work_s:
        began = time.monotonic()
        members, nearness = cluster(points, count, seed=state["done"])
        if nearness > state["nearness"]:
            state |= {"members": members.tolist(), "nearness": nearness}
        state["done"] += 1
        state["spent_s"] += time.monotonic() - began
        state["runs"] = [*earlier, {"worker": self.request.hostname, "first": first, "last": state["done"]}]
        self.checkpoint(state)
    return {"members": state["members"], "runs": state["runs"]}


def cluster(points: NDArray[np.float32], count: int, *, seed: int) -> tuple[NDArray[np.intp], float]:
    """Spherical k-means of vectors of length 1, shape (n, dimensions): the topic of each, and how near they are to it.

    Dhillon and Modha, Concept decompositions for large sparse text data using clustering, 2001.
    """
    import numpy as np

    centres = points[np.random.default_rng(seed).choice(len(points), count, replace=False)]
    members = np.zeros(len(points), dtype=np.intp)
    for turn in range(ROUNDS):
        similarity = points @ centres.T
        before, members = members, similarity.argmax(axis=1)
        if turn and (before == members).all():
            break
        sums = np.stack([points[members == topic].sum(axis=0) for topic in range(count)])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        # A topic that nothing is near to keeps its place.
        centres = np.where(lengths > 0, sums / np.where(lengths > 0, lengths, 1.0), centres)
    return members, float(similarity.max(axis=1).mean())
