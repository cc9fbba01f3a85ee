"""One log file that many processes write, begun anew each day, the old ones compressed and at last dropped (SPEC H8).

A line is one write at the file's end, so that no two mix. Whoever writes holds the file meanwhile, with others and
never waiting: a file is only compressed when nobody holds it, so that a process that was stopped as it wrote loses
nothing and keeps nobody waiting. Locks are the kernel's (flock): they end with their process, and after a fork the
child opens the file anew.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

__all__ = ["COMPRESSED", "LogFile", "identity", "older", "put_aside_at", "tidy"]

#: A file is begun anew at this part of what all may take: the others are the older ones', and room to compress.
PARTS = 8
#: How often a file may turn out to be another's old one while a line is written.
TRIES = 20
#: Of names of older files, in UTC: mesh.log.20261121-000000-000123.gz
STAMP = "%Y%m%d-%H%M%S-%f"
COMPRESSED, UNFINISHED, LOCK = ".gz", ".tmp", ".lock"


class LogFile:
    """The file at `path`, begun anew each day and after `part_bytes`; all together take no more than `max_bytes`.

    `clock`: s since the epoch. For one thread at a time; `write` raises OSError.
    """

    def __init__(
        self,
        path: Path,
        *,
        days: int,
        max_bytes: float,
        part_bytes: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._days, self._max_bytes, self._clock = days, max_bytes, clock
        self._part_bytes = max_bytes / PARTS if part_bytes is None else part_bytes
        self._file: int | None = None
        self._identity = (0, 0)
        self._pid = 0
        #: When its day ends.
        self._ends_at = 0.0
        self._was_put_aside = False
        self._care: threading.Thread | None = None

    def write(self, line: bytes) -> None:
        """Put one line at the file's end; beginning it anew where its day is over or it is full."""
        for _ in range(TRIES):
            file = self._open()
            with _shared(file) as held:
                if held and self._is_current(len(line)):
                    _write(file, line)
                    return
            self.close()
            if self._was_put_aside:  # and is held no more
                self._take_care()
        raise OSError(f"{self.path} changes all the time")

    def close(self) -> None:
        """It is opened again when it is next written."""
        if self._file is None:
            return
        # After a fork the number may have become another file's.
        with suppress(OSError):
            if identity(os.fstat(self._file)) == self._identity:
                os.close(self._file)
        self._file = None

    def _open(self) -> int:
        if self._file is not None and self._pid == os.getpid():
            return self._file
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        found = os.fstat(self._file)
        self._identity, self._pid = identity(found), os.getpid()
        self._ends_at = _next_day(found.st_mtime if found.st_size else self._clock())
        return self._file

    def _is_current(self, more: int) -> bool:
        """Whether the open file is the one to write to, held as it is."""
        if (found := self._at_path()) is None:
            return False
        is_over = self._clock() >= self._ends_at or found.st_size + more > self._part_bytes
        # Where another is just about it, or cannot, this line is still this file's.
        return not (is_over and found.st_size and self._begin_anew())

    def _at_path(self) -> os.stat_result | None:
        """The open file, where it is still the one of that name."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found if identity(found) == self._identity else None

    def _begin_anew(self) -> bool:
        """Put the file aside; False where another is about it."""
        with _alone(self.path.with_name(f"{self.path.name}{LOCK}")) as mine:
            if not mine:
                return False
            if self._at_path() is not None:
                self.path.rename(_name_aside(self.path, self._clock()))
                _drop(self.path, self._days, self._max_bytes, self._clock())
                self._was_put_aside = True
        return True

    def _take_care(self) -> None:
        self._was_put_aside = False
        if self._care is None or not self._care.is_alive():
            self._care = threading.Thread(
                target=tidy, args=(self.path, self._days, self._max_bytes, self._clock), name="log care", daemon=True
            )
            self._care.start()


def tidy(path: Path, days: int, max_bytes: float, clock: Callable[[], float] = time.time) -> None:
    """Compress what was put aside and nobody writes to any more, and drop what is too old or too much."""
    with suppress(OSError), _alone(path.with_name(f"{path.name}{LOCK}.care")) as mine:
        if not mine:
            return
        for old in older(path):
            if old.suffix != COMPRESSED:
                with suppress(OSError):
                    _compress(old)
        _drop(path, days, max_bytes, clock())


def older(path: Path) -> list[Path]:
    """What was put aside of the log at `path`, the oldest first; each once, also while it is being compressed."""
    found: dict[str, Path] = {}
    for old in path.parent.glob(f"{path.name}.2*"):
        if old.suffix == UNFINISHED:
            continue
        name = old.name.removesuffix(COMPRESSED)
        if name not in found or old.suffix != COMPRESSED:
            found[name] = old
    return [found[name] for name in sorted(found)]


def _name_aside(path: Path, now: float) -> Path:
    """A name that none has: clocks may be set back."""
    taken = {old.name.removesuffix(COMPRESSED) for old in older(path)}
    at = datetime.fromtimestamp(now, UTC)
    while (name := f"{path.name}.{at.strftime(STAMP)}") in taken:
        at += timedelta(microseconds=1)
    return path.with_name(name)


def put_aside_at(old: Path) -> float:
    """When it was, s since the epoch, from its name; 0 where that is none of ours."""
    try:
        found = datetime.strptime(old.name.removesuffix(COMPRESSED).rpartition(".")[2], STAMP)
        return found.replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def _compress(old: Path) -> None:
    import gzip  # here, for few that write ever compress

    packed = old.with_name(f"{old.name}{COMPRESSED}")
    unfinished = packed.with_name(f"{packed.name}{UNFINISHED}")
    try:
        with old.open("rb") as source, open(unfinished, "wb", opener=_private) as raw:
            fcntl.flock(source, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6) as out:
                shutil.copyfileobj(source, out, 1 << 16)
            unfinished.rename(packed)
            old.unlink()
    finally:
        unfinished.unlink(missing_ok=True)


def _drop(path: Path, days: int, max_bytes: float, now: float) -> None:
    """Of what was put aside, drop what is too old, and the oldest of what is too much."""
    for unfinished in path.parent.glob(f"{path.name}.2*{UNFINISHED}"):
        with suppress(OSError):
            if now - unfinished.stat().st_mtime > 3600:  # its process died
                unfinished.unlink()
    left = max_bytes * (PARTS - 2) / PARTS
    for old in reversed(older(path)):
        with suppress(OSError):
            left -= old.stat().st_size
            if left < 0 or put_aside_at(old) <= now - days * 86_400:
                old.unlink()


def _write(file: int, line: bytes) -> None:
    done = os.write(file, line)
    if done < len(line):
        # The disk is full in the middle of it. What is written next must not stand behind half a line, whoever writes:
        # its last byte is there, one more need not be.
        with suppress(OSError):
            end, flags = os.lseek(file, 0, os.SEEK_CUR), fcntl.fcntl(file, fcntl.F_GETFL)
            fcntl.fcntl(file, fcntl.F_SETFL, flags & ~os.O_APPEND)
            try:
                os.pwrite(file, b"\n", end - 1)
            finally:
                fcntl.fcntl(file, fcntl.F_SETFL, flags)
        raise OSError("half a line was written: the disk is full")


@contextmanager
def _shared(file: int) -> Iterator[bool]:
    """Hold the file with others; False while it is being compressed."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    except OSError:  # a file system without locks
        yield True
        return
    try:
        yield True
    finally:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether nobody else is at it, which then holds for the block."""
    lock = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(lock)


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def identity(found: os.stat_result) -> tuple[int, int]:
    """What a file is the same by, whatever it is called."""
    return found.st_dev, found.st_ino


def _next_day(stamp: float) -> float:
    """Midnight after, by this machine's clock and zone."""
    day = datetime.fromtimestamp(stamp).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return day.timestamp()
