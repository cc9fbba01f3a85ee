"""Vectors on the wire."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from gpu_mesh.engines import vectors
from gpu_mesh.errors import InvalidValue

SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ANY = arrays(np.float32, SHAPES, elements=st.floats(width=32))


@given(ANY)
def test_decode_gives_back_what_encode_took_bit_for_bit(matrix: np.ndarray) -> None:
    back = vectors.decode(vectors.encode(matrix), matrix.shape[1])
    assert back.dtype == np.float32
    assert back.shape == matrix.shape
    assert back.tobytes() == matrix.tobytes()


def test_the_wire_is_little_endian_float32_row_by_row() -> None:
    expected = base64.b64encode(struct.pack("<4f", 1, -2, 0.5, 3)).decode()
    assert vectors.encode([[1, -2], [0.5, 3]]) == expected
    assert vectors.encode(np.array([[1, -2], [0.5, 3]], dtype=">f8")) == expected
    assert vectors.encode(np.array([[1, 0.5], [-2, 3]], dtype=np.float32).T) == expected


def test_what_is_decoded_may_be_changed() -> None:
    matrix = vectors.decode(vectors.encode([[1.0, 2.0]]), 2)
    matrix[0, 0] = 7
    assert matrix.tolist() == [[7, 2]]


def test_no_vectors_are_an_empty_text() -> None:
    assert vectors.encode(np.zeros((0, 3), np.float32)) == ""
    assert vectors.decode("", 3).shape == (0, 3)


@pytest.mark.parametrize("text", ["not base64!", "AAA", "AAAA\n", "größe", None, 7, b"AAAA"])
def test_what_is_not_base64_is_refused(text: Any) -> None:
    with pytest.raises(InvalidValue, match="base64") as caught:
        vectors.decode(text, 1)
    assert caught.value.field == "vectors"
    with pytest.raises(InvalidValue, match="base64"):
        vectors.join(["", text])


def test_a_text_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"holds 8 bytes, expected a multiple of 12") as caught:
        vectors.decode(vectors.encode([[1.0, 2.0]]), 3)
    assert caught.value.field == "vectors"


@pytest.mark.parametrize("dimensions", [0, -1, True, 2.0, "2", None])
def test_dimensions_are_a_positive_number(dimensions: Any) -> None:
    with pytest.raises(InvalidValue, match="whole number from 1") as caught:
        vectors.decode("", dimensions)
    assert caught.value.field == "dimensions"


@pytest.mark.parametrize("write", [vectors.encode, vectors.to_lists, vectors.unit])
@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 3)])
def test_only_a_matrix_is_written(write: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidValue, match="shape"):
        write(np.zeros(shape))


@given(
    st.integers(1, 5).flatmap(
        lambda d: st.lists(arrays(np.float32, st.tuples(st.integers(0, 4), st.just(d)), elements=FINITE), min_size=1)
    )
)
def test_join_is_the_text_of_all_vectors_together(parts: list[np.ndarray]) -> None:
    assert vectors.join(map(vectors.encode, parts)) == vectors.encode(np.vstack(parts))


@given(arrays(np.float32, SHAPES, elements=FINITE))
def test_lists_keep_six_digits(matrix: np.ndarray) -> None:
    lists = json.loads(json.dumps(vectors.to_lists(matrix), allow_nan=False))
    assert np.shape(lists) == matrix.shape
    for given_number, written in zip(matrix.ravel().tolist(), np.ravel(lists).tolist(), strict=True):
        assert abs(written - given_number) <= 5e-6 * abs(given_number)
        assert len(repr(written).split("e")[0].strip("-0.").replace(".", "").rstrip("0")) <= 6


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_lists_refuse_what_json_lacks(number: float) -> None:
    with pytest.raises(InvalidValue, match="JSON"):
        vectors.to_lists([[1.0, number]])


@given(arrays(np.float32, SHAPES, elements=FINITE))
def test_unit_rows_have_length_one_and_the_same_direction(matrix: np.ndarray) -> None:
    scaled = vectors.unit(matrix)
    assert scaled.dtype == np.float32
    lengths = np.linalg.norm(matrix.astype(float), axis=1)
    for row, before, length in zip(scaled, matrix.astype(float), lengths, strict=True):
        if length == 0:
            assert not row.any()
        else:
            assert np.linalg.norm(row) == pytest.approx(1, abs=1e-6)
            assert row == pytest.approx(before / length, abs=1e-6)
