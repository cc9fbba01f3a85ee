"""Reads the log of this machine: what was put aside and compressed too, in order; and what is written meanwhile."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from gpu_mesh.domain.loglines import Wanted, parse
from gpu_mesh.services.logfile import COMPRESSED, identity, older, put_aside_at

__all__ = ["LogReader"]

#: Between two looks for what is new, s.
EVERY_S = 0.2


class LogReader:
    """Reads what is wanted of the log at `path`. What is none of our lines is left out."""

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self._path, self._wanted = path, wanted
        self._file = _opened(path)
        ours = None if self._file is None else _identity(self._file)
        # What is put aside just now is the file that is open.
        self._older = [old for old in older(path) if ours is None or _identity_of(old) != ours]
        self._seen = {_name(old) for old in self._older}

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def so_far(self, last: int | None = None) -> list[dict[str, Any]]:
        """What is wanted of all there is, the oldest first; with `last` so many of the newest."""
        found: list[dict[str, Any]] = []
        sources: list[Iterable[bytes]] = [] if self._file is None else [_complete(self._file)]
        # What was put aside holds nothing later.
        sources += [_whole(old) for old in reversed(self._older) if put_aside_at(old) >= self._wanted.since]
        for source in sources:
            found = [*deque(self._take(source), maxlen=None if last is None else last - len(found)), *found]
            if last is not None and len(found) >= last:
                break
        return found

    def to_come(self, pause: Callable[[float], object] = time.sleep) -> Iterator[dict[str, Any]]:
        """What is wanted of what is written from now on, without an end; also where the file is begun anew.

        `pause` is called between two looks, with s; what it raises ends it.
        """
        while True:
            if self._file is not None:
                is_old = _identity(self._file) != _identity_of(self._path)
                if is_old:
                    pause(EVERY_S)  # who wrote as it was put aside is done
                yield from self._take(_complete(self._file))
                if is_old:
                    yield from self._go_on()
                    continue
            else:
                yield from self._go_on()
            pause(EVERY_S)

    def _go_on(self) -> Iterator[dict[str, Any]]:
        """From a file that was read to its end and put aside, or removed, to the next."""
        was_read = None
        if self._file is not None:
            self._file.seek(0)
            was_read = self._file.readline()
            self._file.close()
        self._file = _opened(self._path)
        new = [old for old in older(self._path) if _name(old) not in self._seen]
        self._seen |= {_name(old) for old in new}
        # One is the file that was read, by its first line: it may be compressed by now. Others came and went meanwhile.
        for old in new:
            is_open = self._file is not None and _identity_of(old) == _identity(self._file)
            if not is_open and next(_whole(old), None) != was_read:
                yield from self._take(_whole(old))

    def _take(self, lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
        for line in lines:
            found = parse(line.decode("utf-8", "replace"))
            if found is not None and self._wanted.takes(found):
                yield found


def _whole(old: Path) -> Iterator[bytes]:
    import gzip  # here, for commands that read no log

    packed = old.with_name(f"{_name(old)}{COMPRESSED}")
    try:
        if old != packed:
            with old.open("rb") as plain:
                yield from plain
            return
    except FileNotFoundError:  # compressed meanwhile
        pass
    try:
        with gzip.open(packed, "rb") as lines:
            yield from lines
    except (FileNotFoundError, EOFError, gzip.BadGzipFile):  # dropped meanwhile, or damaged: the others are read
        return


def _complete(file: BinaryIO) -> Iterator[bytes]:
    """Lines up to the end; the beginning of one is left for the next time."""
    while line := file.readline():
        if not line.endswith(b"\n"):
            file.seek(-len(line), os.SEEK_CUR)
            return
        yield line


def _name(old: Path) -> str:
    return old.name.removesuffix(COMPRESSED)


def _identity(file: BinaryIO) -> tuple[int, int]:
    return identity(os.fstat(file.fileno()))


def _identity_of(path: Path) -> tuple[int, int] | None:
    try:
        return identity(path.stat())
    except FileNotFoundError:
        return None


def _opened(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None
