"""What runs models: one protocol, one module per engine."""

from __future__ import annotations

from collections.abc import Callable

from gpu_mesh.engines.base import Engine
from gpu_mesh.engines.binding import engine_for, engines_for
from gpu_mesh.errors import InvalidValue

__all__ = ["Engine", "engine_for", "engines_for", "get_engine"]

#: The engine that is always there.
DEFAULT_ENGINE = "local"


def _local() -> Engine:
    from gpu_mesh.engines.local import LocalEngine

    return LocalEngine()


_FACTORIES: dict[str, Callable[[], Engine]] = {"local": _local}
_engines: dict[str, Engine] = {}


def get_engine(name: str = DEFAULT_ENGINE) -> Engine:
    """The engine of that name, one per process. Raises InvalidValue (field `engine`) for an unknown name."""
    if not isinstance(name, str) or name not in _FACTORIES:
        raise InvalidValue("engine", name, f"no such engine; expected one of: {', '.join(sorted(_FACTORIES))}")
    if name not in _engines:
        # Engines open nothing when made, so one made twice by two threads is dropped at no cost.
        _engines.setdefault(name, _FACTORIES[name]())
    return _engines[name]
