"""Sends messages through channels: a program of its own, run by its path, so that no channel can hang who starts it.

Standard input is one JSON object, standard output a JSON object in each line:

    {"within_s", "channels": [{"key", "url", "messages": [{"id", "title", "body", "type"}, …]}, …]}
        → {"channel", "id", "error"} for each message as it is done, error null for one that was sent
    {"within_s", "check": [url, …]}
        → {"check": [is it one that apprise knows, …]}

It ends within that time, whatever becomes of who started it. Each channel has a thread of its own. apprise and all
its plugins, 45 MB, are gone when it ends.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
import threading
from typing import Any

__all__ = ["main"]

logger = logging.getLogger(__name__)

#: Who started it kills it first, s.
SPARE_S = 5


class _Said(logging.Handler):
    """What apprise logs, by thread: what it returns of a failure is only that it was one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._words: dict[int | None, list[str]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self._words.setdefault(record.thread, []).append(record.getMessage())

    def take(self) -> str:
        """What was said in this thread since the last time."""
        return " ".join(self._words.pop(threading.get_ident(), []))


def main() -> None:
    """Do what standard input asks for."""
    asked = json.load(sys.stdin)
    signal.alarm(math.ceil(asked["within_s"]) + SPARE_S)
    import apprise

    said = _Said()
    its_log = logging.getLogger("apprise")
    its_log.addHandler(said)
    its_log.propagate = False
    if "check" in asked:
        _tell({"check": [apprise.Apprise.instantiate(url) is not None for url in asked["check"]]})
        return
    # Loads the plugins: not in several threads at once.
    channels = [(told, apprise.Apprise.instantiate(told["url"])) for told in asked["channels"]]
    said.take()
    threads = [threading.Thread(target=_send, args=(*channel, said)) for channel in channels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _send(told: dict[str, Any], channel: Any, said: _Said) -> None:
    for message in told["messages"]:
        error = None
        if channel is None:
            error = "no address that apprise knows: see GPU_MESH_ALERT_URLS"
        else:
            try:
                words = {name: message[name] for name in ("title", "body")}
                if not channel.notify(**words, notify_type=message["type"], body_format="text"):
                    error = said.take() or "not sent"
            except Exception as exc:
                # A plugin may raise anything: the next message is sent all the same.
                logger.exception("not sent", extra={"action": "send"})
                error = f"{type(exc).__name__}: {exc}"
        _tell({"channel": told["key"], "id": message["id"], "error": error})


def _tell(answer: dict[str, Any]) -> None:
    # In one call: several threads write.
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
