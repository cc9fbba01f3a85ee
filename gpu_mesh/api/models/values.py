"""JSON that may travel on: what a task is given must be readable for whoever reads it next."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator

__all__ = ["JsonList", "JsonObject", "check_json"]

#: Deepest nesting: far below where any reader on the way gives up.
MAX_DEPTH = 64


def check_json(value: Any) -> Any:
    """`value`. Raises ValueError for NaN, Infinity, lone surrogates and what is nested too deeply."""
    level, depth = [value], 0
    while level := [inner for item in level for inner in _inner(item)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested at most {MAX_DEPTH} deep")
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("text in Unicode, without lone surrogates") from None
    except ValueError:
        raise ValueError("JSON, which has neither NaN nor Infinity; nor numbers of thousands of digits") from None
    return value


def _inner(item: object) -> Iterable[Any]:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list) else ()


JsonList = Annotated[list[Any], AfterValidator(check_json)]
JsonObject = Annotated[dict[str, Any], AfterValidator(check_json)]
