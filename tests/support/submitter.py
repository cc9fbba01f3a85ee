"""An application process that does what its standard input says, a JSON object a line, and answers in kind.

A process of its own has settings of its own: a test can give it any broker, and take that broker away.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

#: How long an answer may take at most, s.
ANSWER_S = 30.0


class Submitter:
    """The test's end of such a process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def ask(self, do: str, **words: Any) -> dict[str, Any]:
        """What it answers: `{"took_s": …, "value": …}`, or `error`, `bases`, `message` and `trace`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **words}).encode() + b"\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_S)
        assert ready, f"no answer to {do} within {ANSWER_S:g} s"
        line = self.process.stdout.readline()
        assert line, f"the submitter ended at {do}"
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def submitter(env: Mapping[str, str]) -> Iterator[Submitter]:
    """A process with these settings, ended with the block."""
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **env}
    )
    try:
        yield Submitter(process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _do(command: dict[str, Any], stack: contextlib.ExitStack) -> Any:
    import canvas_tasks
    import sample_tasks
    from celery.contrib.testing.worker import start_worker

    from gpu_mesh.celery import app
    from gpu_mesh.settings import settings
    from gpu_mesh.store.client import check_broker, connect

    match command["do"]:
        case "send":
            return sample_tasks.add.apply_async((2, 3), **command.get("options", {})).id
        case "chain":
            # Holds a worker until `path` is gone; it then sends a task, and so does the chain.
            held = canvas_tasks.hold_and_send.s(command["path"], command["sent"])
            return (held | canvas_tasks.write.s(command["next"])).delay().id
        case "get":
            return app.AsyncResult(command["id"]).get(timeout=command.get("timeout", 10))
        case "work":
            # A worker beside the sender, over the same transport.
            stack.enter_context(start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=5))
            return True
        case "check":
            return check_broker(settings(), timeout_s=command.get("timeout", 5.0))
        case "store":
            with connect(settings()) as client:
                client.set("written", "through connect")
                return client.get("written")
        case other:
            raise ValueError(other)


def main() -> None:
    with contextlib.ExitStack() as stack:
        for line in sys.stdin:
            started = time.monotonic()
            try:
                answer = {"value": _do(json.loads(line), stack)}
            except Exception as exc:  # noqa: BLE001  (the test looks at it)
                names = [kind.__name__ for kind in type(exc).__mro__]
                answer = {"error": names[0], "bases": names, "message": str(exc), "trace": traceback.format_exc()}
            sys.stdout.write(json.dumps({**answer, "took_s": time.monotonic() - started}) + "\n")
            sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
