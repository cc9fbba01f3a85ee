"""Nearest vectors, by comparing with all of them: right for up to some hundred thousand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpu_mesh.errors import InvalidValue

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["top"]


def top(query: ArrayLike, matrix: ArrayLike, k: int) -> list[tuple[int, float]]:
    """The `k` rows of `matrix` most similar to `query`, as (row, similarity), best first, ties by row.

    `query` has the shape (dimensions,), `matrix` (n, dimensions); with vectors of length 1, as engines give
    them, the similarity is the cosine, from -1 to 1. With fewer than `k` rows all are returned.
    Raises InvalidValue (field `query`, `matrix` or `k`).
    """
    import numpy as np

    rows = np.asarray(matrix, dtype=np.float32)
    one = np.asarray(query, dtype=np.float32)
    if rows.ndim != 2:
        raise InvalidValue("matrix", rows.shape, "expected an array of the shape (number of vectors, dimensions)")
    if one.shape != rows.shape[1:]:
        raise InvalidValue("query", one.shape, f"expected one vector of the shape {rows.shape[1:]}, as in the matrix")
    if isinstance(k, bool) or not isinstance(k, int) or k < 0:
        raise InvalidValue("k", k, "expected a whole number from 0: how many to return")
    # Not `rows @ one`: BLAS may round equal rows differently, which would break ties at random.
    similarity = np.einsum("ij,j->i", rows, one)
    best = np.argsort(-similarity, kind="stable")[:k]
    return [(int(row), float(similarity[row])) for row in best]
