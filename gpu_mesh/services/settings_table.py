"""The settings as a table: what holds, and from where. `gpu-mesh config` and docs/settings.md show it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpu_mesh.settings import Settings, mask, names_of, read_dotenv, unit_of

__all__ = ["SettingRow", "rows"]


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One line of `gpu-mesh config` and of docs/settings.md."""

    #: All names it may be set by, ours first.
    names: tuple[str, ...]
    value: str
    source: str
    unit: str
    default: str
    description: str

    @property
    def name(self) -> str:
        """Our own name of it."""
        return self.names[0]


def rows(current: Settings, dotenv: str | Path | None = ".env") -> list[SettingRow]:
    """Every setting with value, source and unit; secrets masked."""
    in_file = {name.upper() for name, value in read_dotenv(dotenv).items() if value}
    in_env = {name.upper() for name, value in os.environ.items() if value}
    found = []
    for field, info in Settings.model_fields.items():
        names = names_of(field)
        places = (("environment", in_env), (".env", in_file))
        source = next((f"{place}: {name}" for place, held in places for name in names if name in held), "default")
        default = "(this machine's)" if info.default_factory is not None else _shown(info.default)
        found.append(
            SettingRow(
                names=names,
                value=mask(_shown(getattr(current, field))),
                source=source,
                unit=unit_of(field),
                default=default,
                description=info.description or "",
            )
        )
    return found


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, Mapping):
        return ",".join(f"{name}={_shown(held)}" for name, held in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
