"""One run of a script: started behind its guard, read line by line, and gone with all its processes at the end."""

from __future__ import annotations

import json
import logging
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from gpu_mesh.errors import ScriptFailed
from gpu_mesh.services import exclusion
from gpu_mesh.services.scripts.output import Line, Splitter, Tail

__all__ = ["ARGUMENTS_FILE", "Ended", "Run", "RunSpec", "argv_of"]

logger = logging.getLogger(__name__)

#: It needs none of the installed packages: without them it starts in some 20 ms and stays small.
GUARD_ARGV = (sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")))
#: Of the arguments, in the working folder.
ARGUMENTS_FILE = "arguments.json"
#: Between two looks of the caller's, s.
TICK_S = 0.1
#: Read at once, bytes.
CHUNK = 1 << 16
#: How long the guard may take beyond the grace, s: its own limit for what SIGKILL does not end, and some.
GUARD_END_S = 15.0
#: How long the last words are read once the script and all its processes are gone, s.
LAST_WORDS_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What is to run, and how."""

    argv: Sequence[str]
    #: The whole environment, but for what tells the place of the arguments' file.
    env: Mapping[str, str]
    #: JSON; standard input reads it, and `MESH_ARGS_FILE` names a file of it.
    arguments: str
    #: Where the working folder is made.
    parent: Path
    #: After which it is asked to stop, s; None: never.
    limit_s: float | None
    #: From asking to killing, s.
    grace_s: float
    #: Longest line that is kept whole, bytes.
    line_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run ended."""

    #: Exit code, or the negative number of the signal; None where it was killed with its guard.
    code: int | None
    #: Whether it had reached its time limit.
    timed_out: bool
    #: Why it could not be started.
    error: str | None
    #: Processes that survived SIGKILL.
    left: tuple[int, ...] = ()


def argv_of(path: Path) -> list[str]:
    """The command of a script: a `.py` by this interpreter, without the script's folder on its path."""
    return [sys.executable, "-P", str(path)] if path.suffix == ".py" else [str(path)]


class Run:
    """A context manager. Leaving it asks what still runs to stop, waits for its end, and kills after the grace.

    For the thread that runs the task. Raises ScriptFailed where the guard cannot be started.
    """

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self.stderr = Tail()
        self.ended: Ended | None = None
        self._stack = ExitStack()
        self._guard: subprocess.Popen[bytes] | None = None
        self._selector = selectors.DefaultSelector()
        self._splitters: dict[str, Splitter] = {}
        self._status = b""

    def __enter__(self) -> Run:
        self._stack.enter_context(self._selector)
        try:
            self._start()
        except OSError as exc:
            self._close()
            raise ScriptFailed(f"cannot be started on this node: {exc}") from None
        except BaseException:  # a signal's
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.ended is None:
                self.stop()
                end = time.monotonic() + self._spec.grace_s + GUARD_END_S
                for _ in self.lines():  # what is printed now must find a reader
                    if time.monotonic() > end:
                        break
        finally:
            self._close()

    def lines(self) -> Iterator[Line | None]:
        """What it prints, line by line, until its end; None at every tick, for the caller to look around."""
        while self.ended is None:
            for key, _ in self._selector.select(TICK_S):
                yield from self._read(key)
            yield None
        end = time.monotonic() + LAST_WORDS_S
        while self._selector.get_map() and time.monotonic() < end:
            for key, _ in self._selector.select(TICK_S):
                yield from self._read(key)

    def stop(self) -> None:
        """Ask it to stop. It is killed after the grace."""
        self._say(b"T")

    def kill(self) -> None:
        """Kill it now."""
        self._say(b"K")

    def _start(self) -> None:
        # The guard deletes it; twice does no harm.
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=self._spec.parent))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        arguments = folder / ARGUMENTS_FILE
        arguments.write_text(self._spec.arguments, encoding="utf-8")
        status, status_end = os.pipe()
        self._watch(os.fdopen(status, "rb", buffering=0), "status")
        spec = {
            "argv": list(self._spec.argv),
            "arguments": str(arguments),
            "folder": str(folder),
            "status": status_end,
            "limit_s": self._spec.limit_s,
            "grace_s": self._spec.grace_s,
        }
        try:
            self._guard = subprocess.Popen(
                [*GUARD_ARGV, json.dumps(spec)],
                bufsize=0,
                cwd=folder,
                env={**self._spec.env, "MESH_ARGS_FILE": str(arguments)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # The device stays ours until the script is ended, should we be killed.
                pass_fds=[status_end, *exclusion.held()],
                # Whatever is sent to the worker's group, the guard decides by the pipe.
                start_new_session=True,
            )
        finally:
            os.close(status_end)
        assert self._guard.stdout is not None
        assert self._guard.stderr is not None
        self._watch(self._guard.stdout, "stdout")
        self._watch(self._guard.stderr, "stderr")

    def _watch(self, stream: IO[bytes], name: str) -> None:
        self._stack.enter_context(stream)
        os.set_blocking(stream.fileno(), False)
        self._selector.register(stream, selectors.EVENT_READ, name)
        if name != "status":
            self._splitters[name] = Splitter(self._spec.line_bytes, is_error=name == "stderr")

    def _read(self, key: selectors.SelectorKey) -> Iterator[Line]:
        data = os.read(key.fd, CHUNK)
        if key.data == "status":
            self._status += data
        else:
            yield from self._splitters[key.data].feed(data)
            if key.data == "stderr":
                self.stderr.feed(data)
        if data:
            return
        self._selector.unregister(key.fileobj)
        if key.data == "status":
            self.ended = _read_status(self._status)
        else:
            yield from self._splitters[key.data].end()

    def _say(self, word: bytes) -> None:
        assert self._guard is not None
        assert self._guard.stdin is not None
        try:
            self._guard.stdin.write(word)
        except BrokenPipeError:
            return  # it has ended

    def _close(self) -> None:
        """The end of the pipe ends what is left."""
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
        self._stack.close()
        if self._guard is None:
            return
        try:
            self._guard.wait(GUARD_END_S)
        except subprocess.TimeoutExpired:
            logger.error("guard %d does not end", self._guard.pid, extra={"action": "abandon"})
        if self.ended is not None and self.ended.left:
            logger.error("processes %s survive SIGKILL", self.ended.left, extra={"action": "abandon"})


def _read_status(data: bytes) -> Ended:
    """What the guard said last. Nothing: it was killed, and its script with it."""
    try:
        found = json.loads(data)
    except ValueError:
        return Ended(code=None, timed_out=False, error=None)
    return Ended(code=found["code"], timed_out=found["limit"], error=found["error"], left=tuple(found["left"]))
