"""Lua scripts by file name: `script(client, "register")` is `lua/register.lua`.

A line `--@include NAME` stands for the text of `lua/NAME.lua`; names with a leading `_` are parts, no scripts. A line
`--@rules` stands for the figures of domain/claim.py as tables, by queue ("" for CPU queues): WEIGHT, AGING
(ceiling − weight), TOP (ceiling); by band: BONUS. A line `--@realtime` stands for what domain/holds.py and
domain/preemption.py name: REALTIME, the queues of realtime jobs with commas, HELD, the one that waits for them, and
YIELDING, those whose jobs may be preempted, with commas. A line `--@preemption` stands for VICTIMS, these lowest first,
INTERACTIVE, those they yield to, the most important first, and PATIENCE, µs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from importlib.resources import files
from typing import Any

import redis
from redis.commands.core import Script
from redis.exceptions import NoScriptError

from gpu_mesh.domain.claim import BAND_BONUS, ceiling, weight
from gpu_mesh.domain.holds import HELD_QUEUE, REALTIME_QUEUES
from gpu_mesh.domain.preemption import INTERACTIVE, PATIENCE_S, VICTIMS
from gpu_mesh.domain.queues import GPU_QUEUES

__all__ = ["script", "sha", "source"]

#: Stands for every CPU queue in the tables.
ANY_CPU_QUEUE = ""
_INCLUDE = re.compile(r"^--@include (\w+)$", re.MULTILINE)


@cache
def source(name: str) -> str:
    """Text of `lua/{name}.lua`, its parts put in."""
    text = (files("gpu_mesh.store") / "lua" / f"{name}.lua").read_text(encoding="utf-8")
    for line, put in (("rules", _rules), ("realtime", _realtime), ("preemption", _preemption)):
        text = text.replace(f"--@{line}\n", put())
    return _INCLUDE.sub(lambda found: source(found[1]), text)


def _rules() -> str:
    queues = [*GPU_QUEUES, ANY_CPU_QUEUE]
    tables: dict[str, dict[str, float]] = {
        "WEIGHT": {queue: weight(queue) for queue in queues},
        "AGING": {queue: ceiling(queue) - weight(queue) for queue in queues},
        "TOP": {queue: ceiling(queue) for queue in queues},
        "BONUS": {band.value: bonus for band, bonus in BAND_BONUS.items()},
    }
    return "".join(
        f"local {name} = {{{', '.join(f'[{key!r}] = {value!r}' for key, value in rows.items())}}}\n"
        for name, rows in tables.items()
    )


def _realtime() -> str:
    realtime, yielding = ",".join(sorted(REALTIME_QUEUES)), ",".join(sorted(VICTIMS))
    return f"local REALTIME, HELD, YIELDING = ',{realtime},', {HELD_QUEUE!r}, ',{yielding},'\n"


def _preemption() -> str:
    lists = ", ".join(f"{{{', '.join(map(repr, names))}}}" for names in (VICTIMS, INTERACTIVE))
    return f"local VICTIMS, INTERACTIVE, PATIENCE = {lists}, {PATIENCE_S * 1e6:.0f}\n"


def script(client: redis.Redis, name: str) -> Callable[..., Any]:
    """The script as a callable of `keys`, `args` and `client` (a pipeline); loads itself again after SCRIPT FLUSH."""
    return partial(_run, name, client=client)


def _run(name: str, *, client: redis.Redis, keys: Sequence[Any] = (), args: Iterable[Any] = ()) -> Any:
    words = tuple(args)
    try:
        return _script(name)(keys, words, client)
    except NoScriptError:
        # A second SCRIPT FLUSH came between loading it and calling it, and a worker would end of that. As text it
        # cannot be missed.
        return client.eval(source(name), len(keys), *keys, *words)


def sha(name: str) -> str:
    """What EVALSHA calls the script."""
    return str(_script(name).sha)


@cache
def _script(name: str) -> Script:
    # For all clients: whose it is only matters to text, which it would encode.
    return Script(redis.Redis(), source(name).encode())
