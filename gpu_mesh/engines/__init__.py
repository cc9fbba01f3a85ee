"""What runs models: one protocol, one module per engine."""

from __future__ import annotations

from gpu_mesh.engines.base import Engine
from gpu_mesh.engines.binding import engine_for, engines_for
from gpu_mesh.engines.local import LOCAL
from gpu_mesh.errors import InvalidValue

__all__ = ["Engine", "engine_for", "engines_for", "get_engine"]


def get_engine(name: str = LOCAL.name) -> Engine:
    """The engine of this process, the only one that needs no address; `engine_for` gives a device's.

    Raises InvalidValue (field `engine`) for another name.
    """
    if name != LOCAL.name:
        raise InvalidValue("engine", name, f"no such engine; expected one of: {LOCAL.name}")
    return LOCAL
