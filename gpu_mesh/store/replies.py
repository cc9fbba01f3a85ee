"""Redis's replies as text: kombu's clients do not decode theirs."""

from __future__ import annotations

__all__ = ["text"]


def text(value: object) -> str:
    """A reply as text; bytes that are no UTF-8, a stranger's, are replaced."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
