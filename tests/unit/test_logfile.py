"""One log file of many processes: nothing lost, nothing torn; days, parts and what all may take (SPEC H8)."""

from __future__ import annotations

import fcntl
import gzip
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from waiting import wait_for

from gpu_mesh.domain.loglines import Wanted
from gpu_mesh.services.logfile import LogFile, older, tidy
from gpu_mesh.services.logreading import LogReader
from workers.logs import ToFile

DAY_S = 86_400.0
#: Noon of a day, s since the epoch.
NOON = 1_795_262_400.0
BIG = 1e9


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def line(text: str) -> bytes:
    return f'{{"time":"2026-11-21T12:00:00.000+00:00", "message": "{text}"}}\n'.encode()


def messages(path: Path) -> list[str]:
    with LogReader(path, Wanted()) as reader:
        return [found["message"] for found in reader.so_far()]


def cared_for(file: LogFile) -> None:
    """What was put aside is compressed."""
    if file._care is not None:
        file._care.join(20)
    tidy(file.path, 7, BIG)
    assert {old.suffix for old in older(file.path)} <= {".gz"}


def taken(folder: Path) -> int:
    """Bytes of all files there; some may go meanwhile."""
    with os.scandir(folder) as entries:
        sizes = []
        for entry in entries:
            with suppress(FileNotFoundError):
                sizes.append(entry.stat().st_size)
    return sum(sizes)


def unpacked(old: Path) -> bytes:
    with gzip.open(old) as found:
        return found.read()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log" / "mesh.log"


def test_a_new_day_begins_a_new_file_and_the_old_one_is_compressed(path: Path):
    """The first of two processes that writes puts the file aside, the other one follows."""
    clock = Clock()
    file, other = (LogFile(path, days=7, max_bytes=BIG, clock=clock) for _ in range(2))
    file.write(line("one"))
    other.write(line("two"))
    clock.now += DAY_S
    file.write(line("three"))
    os.utime(path, (clock.now, clock.now))
    other.write(line("four"))
    cared_for(file)
    assert len(older(path)) == 1
    assert unpacked(older(path)[0]) == line("one") + line("two")
    assert messages(path) == ["one", "two", "three", "four"]
    file.close()
    other.close()


def test_a_process_that_starts_on_another_day_begins_a_new_file(path: Path):
    clock = Clock()
    first = LogFile(path, days=7, max_bytes=BIG, clock=clock)
    first.write(line("one"))
    first.close()
    os.utime(path, (NOON, NOON))
    clock.now += DAY_S
    second = LogFile(path, days=7, max_bytes=BIG, clock=clock)
    second.write(line("two"))
    cared_for(second)
    assert path.read_bytes() == line("two")
    assert messages(path) == ["one", "two"]
    second.close()


def test_seven_days_are_kept(path: Path):
    clock = Clock()
    file = LogFile(path, days=7, max_bytes=BIG, clock=clock)
    for day in range(12):
        clock.now = NOON + day * DAY_S
        file.write(line(f"day {day}"))
    cared_for(file)
    assert len(older(path)) == 7
    kept = [int(found.removeprefix("day ")) for found in messages(path)]
    assert kept == list(range(4, 12))
    file.close()


def test_all_together_take_no_more_than_they_may(path: Path):
    """And of what is dropped the oldest goes first."""
    most = 80_000
    file = LogFile(path, days=7, max_bytes=most)
    for number in range(500):
        # What gzip makes no smaller.
        file.write(line(f"{number} {os.urandom(300).hex()}"))
        assert taken(path.parent) <= most
    cared_for(file)
    numbers = [int(found.split()[0]) for found in messages(path)]
    assert numbers == list(range(numbers[0], 500))
    assert 0 < numbers[0] < 450
    file.close()


def writes(path: Path) -> set[str]:
    """The processes that the current file has lines of."""
    with suppress(FileNotFoundError):
        return {json.loads(text)["process"] for text in path.read_bytes().split(b"\n")[:-1]}
    return set()


def test_many_processes_lose_and_tear_nothing(path: Path):
    """Over many files that are begun anew and compressed meanwhile; with children made by fork, and one is killed."""
    count, part = 1000, 60_000
    script = Path(__file__).parents[1] / "support" / "log_writer.py"

    def writer(name: str, lines: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(script), str(path), name, str(lines), str(part)])

    writers = [writer(name, count) for name in ("fork-a", "fork-b", "c")]
    victim = writer("victim", 1_000_000)
    try:
        wait_for(lambda: len(older(path)) > 3 and "victim" in writes(path), "a few files, and the victim", 60)
    finally:
        victim.kill()
        victim.wait()
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    tidy(path, 7, BIG)
    assert {old.suffix for old in older(path)} == {".gz"}
    lines = [found for old in older(path) for found in unpacked(old).splitlines()]
    if path.exists():  # not where the victim had just put it aside
        lines += path.read_bytes().splitlines()
    found = [json.loads(text) for text in lines]
    numbers: dict[str, list[int]] = {}
    for entry in found:
        numbers.setdefault(entry["process"], []).append(entry["number"])
    assert {name: sorted(each) for name, each in numbers.items() if name != "victim"} == {
        **{name: list(range(-1, count)) for name in ("fork-a", "fork-b", "c")},
        **{name: list(range(count)) for name in ("child-fork-a", "child-fork-b")},
    }
    assert sorted(numbers["victim"]) == list(range(-1, len(numbers["victim"]) - 1))


def test_a_process_that_was_stopped_as_it_wrote_keeps_nobody_waiting(path: Path):
    """Others write and put its file aside; it is compressed once that process has written to it."""
    file = LogFile(path, days=7, max_bytes=BIG, part_bytes=100)
    file.write(line("one"))
    with path.open("ab") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_SH)
        for number in range(3):
            file.write(line(f"more {number}"))
        assert file._care is not None
        file._care.join(20)
        tidy(path, 7, BIG)
        assert [old.suffix for old in older(path)].count(".gz") == len(older(path)) - 1
        stopped.write(line("late"))
    tidy(path, 7, BIG)
    assert {old.suffix for old in older(path)} == {".gz"}
    assert sorted(messages(path)) == sorted(["one", "late", "more 0", "more 1", "more 2"])
    file.close()


def test_one_that_was_stopped_as_it_put_the_file_aside_keeps_nobody_waiting(path: Path):
    file = LogFile(path, days=7, max_bytes=BIG, part_bytes=100)
    file.write(line("one"))
    with (path.parent / "mesh.log.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file.write(line("two"))
        file.write(line("three"))
    assert messages(path) == ["one", "two", "three"]
    file.write(line("four"))
    assert path.read_bytes() == line("four")
    file.close()


def test_nobody_waits_for_a_file_that_is_compressed(path: Path):
    """It was put aside a moment ago by another, and held to be compressed by now."""
    file = LogFile(path, days=7, max_bytes=BIG)
    file.write(line("one"))
    aside = path.with_name("mesh.log.20261121-120000-000000")
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        path.rename(aside)
        writer = threading.Thread(target=file.write, args=[line("two")], daemon=True)
        writer.start()
        writer.join(10)
        assert not writer.is_alive()
    assert messages(path) == ["one", "two"]
    file.close()


FORKS = """
import fcntl, os, sys
from pathlib import Path
from gpu_mesh.services.logfile import LogFile
file = LogFile(Path(sys.argv[1]), days=7, max_bytes=1e9)
file.write(b"one\\n")
fcntl.flock(file._file, fcntl.LOCK_SH)  # as it writes, another of its threads forks
if (child := os.fork()) == 0:
    file.write(b"two\\n")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
other = open(sys.argv[1], "rb")
try:
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("held")
"""


def test_a_child_made_by_fork_lets_go_of_nothing_of_its_parents(path: Path):
    ran = subprocess.run(
        [sys.executable, "-c", FORKS, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout == "held\n"
    assert path.read_bytes() == b"one\ntwo\n"


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("shop", logging.INFO, "", 0, text, (), None)


def test_a_folder_that_cannot_be_written_is_told_once_and_no_more(tmp_path: Path, capsys):
    """And again once it could be written in between. Whoever logs notices nothing."""
    blocked = tmp_path / "blocked"
    blocked.write_text("no folder")
    handler = ToFile(LogFile(blocked / "mesh.log", days=7, max_bytes=BIG), dict)
    with capsys.disabled():
        stderr, sys.__stderr__ = sys.__stderr__, (told := (tmp_path / "stderr").open("w+"))
        try:
            for number in range(3):
                handler.handle(record(f"lost {number}"))
            blocked.unlink()
            handler.handle(record("kept"))
            handler.close()
            (blocked / "mesh.log").rename(tmp_path / "moved.log")
            blocked.rmdir()
            blocked.write_text("no folder")
            handler.handle(record("lost"))
        finally:
            sys.__stderr__ = stderr
    told.seek(0)
    words = told.read().splitlines()
    told.close()
    assert len(words) == 2
    assert all("nothing is logged to" in word for word in words)
    assert messages(tmp_path / "moved.log") == ["kept"]


def test_a_full_disk_is_told_once(tmp_path: Path):
    """/dev/full takes nothing, as a full disk."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "mesh.log").symlink_to("/dev/full")
    handler = ToFile(LogFile(tmp_path / "mesh.log", days=7, max_bytes=BIG), dict)
    stderr, sys.__stderr__ = sys.__stderr__, (told := (tmp_path / "stderr").open("w+"))
    try:
        for number in range(3):
            handler.handle(record(f"lost {number}"))
    finally:
        sys.__stderr__ = stderr
        handler.close()
    told.seek(0)
    words = told.read().splitlines()
    told.close()
    assert len(words) == 1
    assert "No space left" in words[0]


class Enough(Exception):
    """A test has read what it wanted."""


def followed(reader: LogReader, *steps: Callable[[], object]) -> list[str]:
    """What is read while these are done one after the other, at each look for what is new."""
    left = iter(steps)

    def pause(_: float) -> None:
        step = next(left, None)
        if step is None:
            raise Enough
        step()

    found: list[str] = []
    with suppress(Enough):
        found.extend(entry["message"] for entry in reader.to_come(pause))
    return found


def test_following_goes_on_over_files_that_are_begun_anew(path: Path):
    """One, then several between two looks, compressed or not, in order, each line once; half a line is waited for."""
    file = LogFile(path, days=7, max_bytes=BIG, part_bytes=150)

    def write(*texts: str) -> None:
        for text in texts:
            file.write(line(text))

    def append(text: bytes) -> None:
        with path.open("ab") as out:
            out.write(text)

    write("old")
    with LogReader(path, Wanted()) as reader:
        assert [found["message"] for found in reader.so_far()] == ["old"]
        found = followed(
            reader,
            lambda: write("1"),
            lambda: write("2", "3"),
            lambda: None,
            lambda: (write("4", "5", "6", "7", "8"), cared_for(file)),
            lambda: None,
            lambda: None,
            lambda: append(line("9")[:20]),
            lambda: append(line("9")[20:]),
            lambda: None,
        )
    assert found == [str(number) for number in range(1, 10)]
    file.close()


def test_a_log_that_is_not_there_yet_is_waited_for(path: Path):
    file = LogFile(path, days=7, max_bytes=BIG)
    with LogReader(path, Wanted()) as reader:
        assert reader.so_far() == []
        assert followed(reader, lambda: None, lambda: file.write(line("one")), lambda: None) == ["one"]
    file.close()


def test_the_last_lines_are_read_from_the_end(path: Path):
    """What is damaged, by a disk that was full say, costs its own lines."""
    file = LogFile(path, days=7, max_bytes=BIG, part_bytes=300)
    for number in range(20):
        file.write(line(str(number)))
    cared_for(file)
    with LogReader(path, Wanted()) as reader:
        assert [found["message"] for found in reader.so_far(7)] == [str(n) for n in range(13, 20)]
    damaged = older(path)[-1]
    count = len(unpacked(damaged).splitlines())
    damaged.write_bytes(b"no gzip")
    assert len(messages(path)) == 20 - count
    file.close()


def test_following_goes_on_where_the_folder_is_removed(path: Path):
    """What was written anew is read once, also where several files were begun before the next look."""
    file = LogFile(path, days=7, max_bytes=BIG, part_bytes=150)

    def write(*texts: str) -> None:
        for text in texts:
            file.write(line(text))

    write("old")
    with LogReader(path, Wanted()) as reader:
        reader.so_far()
        found = followed(
            reader,
            lambda: write("1"),
            lambda: shutil.rmtree(path.parent),
            lambda: None,
            lambda: (write("2", "3", "4"), cared_for(file)),
            lambda: None,
            lambda: (write("5", "6"), cared_for(file)),
            lambda: None,
            lambda: (shutil.rmtree(path.parent), write("7", "8", "9")),
            lambda: None,
            lambda: write("10"),
            lambda: None,
            lambda: None,
        )
    assert sorted(found, key=int) == [str(number) for number in range(1, 11)]
    file.close()


FILLS = """
import resource, signal, sys
from pathlib import Path
from gpu_mesh.services.logfile import LogFile
file = LogFile(Path(sys.argv[1]), days=7, max_bytes=1e9)
file.write(b"x" * 50 + b"\\n")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
for _ in range(2):
    try:
        file.write(b"y" * 99 + b"\\n")
    except OSError:
        print("told")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file.write(b"z\\n")
"""


def test_half_a_line_on_a_disk_that_is_full_costs_no_other(path: Path):
    """Though there is room for no byte more, not even its end."""
    ran = subprocess.run(
        [sys.executable, "-c", FILLS, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout == "told\ntold\n"
    assert path.read_bytes() == b"x" * 50 + b"\n" + b"y" * 48 + b"\nz\n"
