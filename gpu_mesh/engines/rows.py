"""From a server's answer to vectors that every engine gives alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gpu_mesh.engines.vectors import unit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["embed_all"]

#: Embedded in place of nothing, to learn how long a model's vectors are.
ANY_TEXT = "a"


def embed_all(texts: list[str], ask: Callable[[list[str]], Sequence[Sequence[float]]]) -> NDArray[np.float32]:
    """Vectors of `texts` by `ask`, which is never asked for a blank one: servers refuse some, embed others.

    Raises ValueError where what `ask` gives is not one vector of the same length, all finite, for each text.
    """
    import numpy as np

    rows = [index for index, text in enumerate(texts) if text.strip()]
    asked = [texts[index] for index in rows] or [ANY_TEXT]
    found = np.asarray(ask(asked), dtype=np.float64)
    if found.ndim != 2 or len(found) != len(asked) or found.shape[1] < 1 or not np.isfinite(found).all():
        raise ValueError(f"vectors of shape {found.shape} for {len(asked)} texts, or not all of them finite")
    all_rows = np.zeros((len(texts), found.shape[1]))
    if rows:
        all_rows[rows] = found
    return unit(all_rows)
