"""Vectors on the wire and in memory. An array of vectors has the shape (number of vectors, dimensions)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gpu_mesh.errors import InvalidValue

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = ["decode", "encode", "join", "to_lists", "unit"]

#: On the wire: little-endian float32, whatever the machine.
WIRE_TYPE = "<f4"

#: Size of one number on the wire, in bytes.
WIRE_BYTES = 4

#: Decimal digits kept in JSON: an error of at most 5e-6 of each number, so of any cosine similarity, in half
#: the characters that the numbers would take in full.
JSON_DIGITS = 6


def unit(vectors: ArrayLike) -> NDArray[np.float32]:
    """Vectors of shape (n, dimensions), each scaled to length 1; a zero vector stays zero."""
    import numpy as np

    wide = _matrix(vectors, np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = (wide / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    return scaled


def encode(vectors: ArrayLike) -> str:
    """Base64 of the vectors of shape (n, dimensions), row by row, as little-endian float32."""
    return base64.b64encode(_matrix(vectors, WIRE_TYPE).tobytes()).decode("ascii")


def decode(text: str, dimensions: int) -> NDArray[np.float32]:
    """What `encode` wrote, bit for bit: shape (n, dimensions), the caller's own to change.

    Raises InvalidValue (field `vectors` or `dimensions`).
    """
    import numpy as np

    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or dimensions < 1:
        raise InvalidValue("dimensions", dimensions, "expected a whole number from 1, the length of one vector")
    data = _bytes(text)
    row = WIRE_BYTES * dimensions
    if len(data) % row:
        raise InvalidValue(
            "vectors", text, f"holds {len(data)} bytes, expected a multiple of {row} ({dimensions} numbers of float32)"
        )
    return np.frombuffer(data, dtype=WIRE_TYPE).reshape(-1, dimensions).astype(np.float32)


def join(texts: Iterable[str]) -> str:
    """Several texts of `encode` as the one that all their vectors would give, in order.

    Raises InvalidValue (field `vectors`). The vectors must have the same dimensions, which the texts do not tell.
    """
    return base64.b64encode(b"".join(map(_bytes, texts))).decode("ascii")


def to_lists(vectors: ArrayLike) -> list[list[float]]:
    """The vectors of shape (n, dimensions) as JSON-ready lists, each number to JSON_DIGITS significant digits.

    Raises InvalidValue for NaN and infinity, which JSON cannot express.
    """
    import numpy as np

    matrix = _matrix(vectors, np.float32)
    if not np.isfinite(matrix).all():
        raise InvalidValue(
            "vectors", "NaN or infinity", "JSON has no such numbers; the engine that made them is at fault"
        )
    return [[float(f"{number:.{JSON_DIGITS}g}") for number in row] for row in matrix.tolist()]


def _bytes(text: object) -> bytes:
    if not isinstance(text, str):
        raise InvalidValue("vectors", text, f"is of type {type(text).__name__}, expected base64 as a string")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidValue("vectors", text, f"is not base64 ({error}); expected what `encode` wrote") from error
    return data


def _matrix(vectors: ArrayLike, dtype: str | type[np.generic]) -> NDArray[np.generic]:
    import numpy as np

    matrix = np.asarray(vectors, dtype=dtype)
    if matrix.ndim != 2:
        raise InvalidValue("vectors", matrix.shape, "expected an array of the shape (number of vectors, dimensions)")
    return matrix
