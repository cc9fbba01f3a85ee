"""JSON that may travel on: what a task is given must be readable for whoever reads it next."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator

__all__ = ["JsonList", "JsonObject"]


def _check(value: Any) -> Any:
    """`value`; how deep it is api/bodies has checked. Raises ValueError for NaN, Infinity and lone surrogates."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("text in Unicode, without lone surrogates") from None
    except ValueError:
        raise ValueError("JSON, which has neither NaN nor Infinity; nor numbers of thousands of digits") from None
    return value


JsonList = Annotated[list[Any], AfterValidator(_check)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_check)]
