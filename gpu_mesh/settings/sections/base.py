"""What the sections of the settings share."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, Field

__all__ = ["LONGEST_EXPIRY_S", "PREFIX", "env_name", "setting"]

PREFIX = "GPU_MESH_"
#: Results are kept for ten years at most, s; Redis takes no infinity.
LONGEST_EXPIRY_S = 315_360_000.0


def env_name(field: str) -> str:
    """The environment variable of a setting: `broker_url` is `GPU_MESH_BROKER_URL`."""
    return f"{PREFIX}{field.upper()}"


def setting(description: str, *, unit: str = "", names: tuple[str, ...] = (), **limits: Any) -> Any:
    """One setting with its metadata; `names` where SPEC N2 orders a plain one beside ours."""
    if names:
        limits["validation_alias"] = AliasChoices(*names)
    return Field(description=description, json_schema_extra={"unit": unit}, **limits)
