"""Lua scripts by file name: `script(client, "register")` is `lua/register.lua`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import redis
from redis.commands.core import Script

__all__ = ["script", "source"]


@cache
def source(name: str) -> str:
    """Text of `lua/{name}.lua`."""
    return (files("gpu_mesh.store") / "lua" / f"{name}.lua").read_text(encoding="utf-8")


def script(client: redis.Redis, name: str) -> Script:
    """The script as a callable; loads itself again after SCRIPT FLUSH."""
    return client.register_script(source(name))
