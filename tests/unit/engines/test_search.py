"""Nearest vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_mesh.engines import get_engine
from gpu_mesh.engines.search import top
from gpu_mesh.engines.vectors import unit
from gpu_mesh.errors import InvalidValue

# Few different rows, so that ties are common, and dimensions beyond the width of vector instructions.
WORLDS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(1, 70), st.integers(0, 50))


@given(WORLDS)
def test_top_is_a_sort_by_similarity_then_row(world: tuple[int, int, int, int]) -> None:
    seed, rows, dimensions, k = world
    random = np.random.default_rng(seed)
    pool = unit(random.normal(size=(4, dimensions)))
    matrix, query = pool[random.integers(0, 4, rows)], pool[0]
    found = top(query, matrix, k)
    assert len(found) == min(k, rows)
    assert [similarity for _, similarity in found] == sorted((s for _, s in found), reverse=True)
    for row, similarity in found:
        assert similarity == pytest.approx(float(matrix[row].astype(float) @ query.astype(float)), abs=1e-6)
    by_row = dict(top(query, matrix, rows))
    assert sorted(by_row) == list(range(rows))
    assert found == sorted(by_row.items(), key=lambda pair: (-pair[1], pair[0]))[:k]
    for row in range(1, rows):
        twin = next(r for r in range(rows) if np.array_equal(matrix[r], matrix[row]))
        assert by_row[row] == by_row[twin], "equal rows are equally similar"


def test_the_nearest_text_is_found() -> None:
    texts = ["The invoice is overdue", "A kitten plays with wool", "Rain is expected tomorrow"]
    engine = get_engine()
    matrix, query = engine.embed(texts).vectors, engine.embed(["cat"]).vectors[0]
    assert top(query, matrix, 1)[0][0] == 1


def test_results_are_plain_numbers() -> None:
    [(row, similarity)] = top([1.0, 0.0], [[1.0, 0.0]], 1)
    assert (type(row), type(similarity)) == (int, float)


@pytest.mark.parametrize(
    ("query", "matrix", "k", "field"),
    [
        ([1.0], [[1.0, 2.0]], 1, "query"),
        ([[1.0, 2.0]], [[1.0, 2.0]], 1, "query"),
        ([1.0], [1.0], 1, "matrix"),
        ([1.0], [[1.0]], -1, "k"),
        ([1.0], [[1.0]], True, "k"),
        ([1.0], [[1.0]], 1.0, "k"),
    ],
)
def test_wrong_input_is_named(query: Any, matrix: Any, k: Any, field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        top(query, matrix, k)
    assert caught.value.field == field
