"""Reading the settings: from the environment, else `.env`, else their defaults. What is wrong is refused by name."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from dotenv import dotenv_values
from pydantic import AliasChoices, ValidationError

from gpu_mesh.domain.addresses import mask
from gpu_mesh.errors import InvalidSetting
from gpu_mesh.settings.model import PREFIX, Settings, env_name

__all__ = ["load", "names_of", "read_dotenv", "settings", "unit_of"]

#: What a script finds in its environment is no setting: it may use the mesh itself. Nor is what a client
#: of the REST API reads (examples/clients).
SET_FOR_SCRIPTS = frozenset({"GPU_MESH_TASK_ID", "GPU_MESH_TOKEN", "GPU_MESH_URL"})
_SECRET_NAME = re.compile(r"PASS|SECRET|TOKEN|_KEY$|ALERT|URLS$", re.IGNORECASE)


def load(dotenv: str | Path | None = ".env") -> Settings:
    """Settings from the environment and `dotenv`. Raises InvalidSetting naming the first one refused."""
    in_file = read_dotenv(dotenv)
    found = {**in_file, **{name: value for name, value in os.environ.items() if value or name not in in_file}}
    _refuse_unknown(found)
    try:
        return Settings(_env_file=dotenv if in_file else None)
    except ValidationError as exc:
        raise _refusal(exc, found) from None


@cache
def settings() -> Settings:
    """This process's settings, read once."""
    return load()


def read_dotenv(path: str | Path | None) -> dict[str, str | None]:
    """What a `.env` file sets; nothing where there is no file, or none that this user may see.

    Raises InvalidSetting for a file that cannot be read.
    """
    try:
        if path is None or not Path(path).is_file():
            return {}
    except OSError:  # a folder this user may not enter, before Python 3.14
        return {}
    try:
        return dotenv_values(path)
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidSetting(".env", str(path), f"cannot be read ({exc}): expected a file of UTF-8 lines") from None


def _refuse_unknown(found: Mapping[str, str | None]) -> None:
    known = [field.upper() for field in Settings.model_fields]
    for name in sorted(found.keys() - SET_FOR_SCRIPTS):
        short = name.upper().removeprefix(PREFIX)
        if name.upper().startswith(PREFIX) and short not in known:
            near = difflib.get_close_matches(short, known, n=1)
            hint = f"did you mean {env_name(near[0])}?" if near else "`gpu-mesh config` lists the names there are"
            value = "***" if _SECRET_NAME.search(name) else mask(found[name] or "")
            raise InvalidSetting(name, value, f"no such setting; {hint}")


def _refusal(exc: ValidationError, found: Mapping[str, str | None]) -> InvalidSetting:
    error = exc.errors(include_url=False)[0]
    remedy = error["msg"].removeprefix("Value error, ")
    where, value = error["loc"], error["input"]
    if not where:  # from the check across fields, which leads its message with the field's name
        field, _, remedy = remedy.partition(": ")
        value = getattr(value, field, None) if not isinstance(value, Mapping) else value.get(field)
        return InvalidSetting(env_name(field), mask(str(value)), remedy)
    field = next(name for name in Settings.model_fields if where[0] in (name, *names_of(name)))
    typed = {name.upper(): name for name, held in found.items() if held}
    name = next((name for name in names_of(field) if name in typed), env_name(field))
    if len(where) > 1:  # one of several pairs
        value = f"{where[1]}={value}"
    if "SecretStr" in str(Settings.model_fields[field].annotation):
        value = "***"
    if remedy.startswith("Input should be "):  # pydantic's own words
        remedy = remedy.removeprefix("Input should be ").partition(", unable")[0]
        remedy += f" ({unit_of(field)})" if unit_of(field) else ""
    return InvalidSetting(name, mask(value) if isinstance(value, str) else value, remedy)


def names_of(field: str) -> tuple[str, ...]:
    """Every environment variable that sets a setting, ours first."""
    alias = Settings.model_fields[field].validation_alias
    return tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else (env_name(field),)


def unit_of(field: str) -> str:
    """The unit of a setting; empty where it has none."""
    extra = Settings.model_fields[field].json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""
