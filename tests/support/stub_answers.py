"""What the engines' stubs answer: texts and vectors that are the same for the same input, on any machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

__all__ = ["answer_tokens", "vector"]

#: Dimensions of a stub's vectors.
DIMENSIONS = 64


def answer_tokens(
    prompt: str, *, length: int | None = None, limit: int | None = None, stop: Sequence[str] = ()
) -> tuple[list[str], str]:
    """Tokens of the answer to `prompt`, and why it ends: `stop` or `length`."""
    words = f"You said: {prompt}".split()
    if length is not None:
        words = [words[index % len(words)] for index in range(length)]
    text = " ".join(words)
    cuts = [at for mark in stop if (at := text.find(mark)) >= 0]
    tokens = re.findall(r"\s*\S+", text[: min(cuts)] if cuts else text)
    if limit is not None and 0 <= limit < len(tokens):
        return tokens[:limit], "length"
    return tokens, "stop"


def vector(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A vector for a text: texts that share words, or parts of words, are near each other. Not of length 1."""
    lowered = f" {text.casefold()} "
    parts = [*re.findall(r"\w+", lowered), *(lowered[i : i + 3] for i in range(len(lowered) - 2)), text]
    sums = [0.0] * dimensions
    for part in parts:
        digest = hashlib.blake2b(part.encode(), digest_size=8).digest()
        sums[int.from_bytes(digest[:4], "big") % dimensions] += 1.0 if digest[4] & 1 else -1.0
        sums[int.from_bytes(digest[4:], "big") % dimensions] += 0.5
    return sums
