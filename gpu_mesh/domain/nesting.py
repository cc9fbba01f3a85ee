"""How deep a JSON text is nested, before it is parsed."""

from __future__ import annotations

import re

__all__ = ["is_deeper"]

# Possessive, and content with a string that has no end: the time it takes is linear in any text.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")


def is_deeper(text: bytes | bytearray, levels: int) -> bool:
    """Whether lists and objects lie in each other more than `levels` deep. Text that is no JSON may count as deeper."""
    if text.count(b"[") + text.count(b"{") <= levels:
        return False
    left = _STRING.sub(b"", text).translate(_ONE_KIND, _OTHERS)
    # Each round takes out the innermost.
    for _ in range(levels):
        if not left:
            return False
        left = left.replace(b"[]", b"")
    return bool(left)
