"""The channels of this node's settings: which they are, whether apprise knows them, and sending through them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from gpu_mesh.domain.alerts import Level, Notice
from gpu_mesh.domain.announcing import Key, Message
from gpu_mesh.domain.channels import Channel, parse, scrub
from gpu_mesh.errors import InvalidSetting
from gpu_mesh.services import messenger
from gpu_mesh.settings import Settings, env_name

__all__ = ["DEADLINE_S", "Messenger", "check", "configured", "send"]

logger = logging.getLogger(__name__)

#: How long all channels together may take for what is sent in one go, s: the process that sends is killed then.
DEADLINE_S = 30.0
#: How long the look at the addresses may take, s: at worst on a machine that is busy.
CHECK_S = 60.0
#: How long the pipe of a killed process is waited for, s.
END_S = 2.0
#: What apprise calls a level.
_TYPES = {Level.INFO: "info", Level.WARNING: "warning", Level.ERROR: "failure", Level.CRITICAL: "failure"}
ARGV = (sys.executable, "-P", messenger.__file__)
HIDDEN = "***"


def configured(settings: Settings) -> list[Channel]:
    """The channels, those of GPU_MESH_ALERT_URLS first. Raises InvalidSetting, without what the addresses hold."""
    level, found = Level[settings.alert_level], list[Channel]()
    given = settings.alert_urls
    for name, text in (
        ("alert_urls", given.get_secret_value() if given is not None else ""),
        ("alert_urls_file", _in_file(settings)),
    ):
        try:
            found += parse(text, level, first=len(found) + 1)
        except ValueError as exc:
            raise InvalidSetting(env_name(name), HIDDEN, str(exc)) from None
    return found


def check(settings: Settings) -> list[Channel]:
    """The channels, each one that apprise knows. Raises InvalidSetting.

    Costs nothing where there is none, else some tenths of a second in a process of its own.
    """
    channels = configured(settings)
    if not channels:
        return []
    answers = Messenger().ask({"check": [channel.url for channel in channels]}, CHECK_S)
    known = next((answer["check"] for answer in answers if "check" in answer), None)
    if known is None:
        logger.warning("the addresses of the channels cannot be looked at", extra={"action": "channels"})
        return channels
    for channel, is_known in zip(channels, known, strict=True):
        if not is_known:
            raise InvalidSetting(
                _setting_of(settings, channel),
                HIDDEN,
                f"address {channel.number}, {channel.scheme}://…, is none that apprise knows: see docs/alerts.md and "
                f"https://appriseit.com/services/ for how it is written",
            )
    return channels


class Messenger:
    """A process that sends, one at a time; `stop` ends it from another thread."""

    def __init__(self, argv: Sequence[str] = ARGV) -> None:
        self._argv = argv
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def send(self, batch: Mapping[Channel, Sequence[Message]], deadline_s: float = DEADLINE_S) -> dict[Key, str | None]:
        """Send each channel its messages. None for one that was sent, else why not; never
        anything of an address."""
        asked = [
            {
                "key": channel.key,
                "url": channel.url,
                "messages": [
                    {"id": notice.id, "title": title, "body": body, "type": _type(notice)}
                    for notice, title, body in notices
                ],
            }
            for channel, notices in batch.items()
        ]
        silence = f"no answer within {deadline_s:g} s"
        outcomes: dict[Key, str | None] = {
            (notice.id, channel.key): silence for channel, notices in batch.items() for notice, _, _ in notices
        }
        urls = {channel.key: channel.url for channel in batch}
        for answer in self.ask({"channels": asked}, deadline_s):
            error, key = answer.get("error"), str(answer.get("channel"))
            if (told := (str(answer.get("id")), key)) in outcomes:
                outcomes[told] = None if error is None else scrub(str(error), urls[key])
        if self._stopped:
            return {key: error for key, error in outcomes.items() if error != silence}
        return outcomes

    def stop(self) -> None:
        """End what is being sent: it stays in the outbox."""
        self._stopped = True
        process = self._process
        if process is not None:
            process.kill()

    def ask(self, asked: Mapping[str, Any], deadline_s: float) -> list[dict[str, Any]]:
        """Its answers to what services/messenger understands, as far as they came in time."""
        try:
            process = subprocess.Popen(
                self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError as exc:
            logger.error("nothing can be sent: %s", exc, extra={"action": "announce"})
            return []
        self._process = process
        try:
            if self._stopped:
                process.kill()
            said, _ = process.communicate(json.dumps({**asked, "within_s": deadline_s}), timeout=deadline_s)
        except subprocess.TimeoutExpired:
            process.kill()
            said = _rest(process)
        finally:
            self._process = None
        return _read(said)


def send(batch: Mapping[Channel, Sequence[Message]], deadline_s: float = DEADLINE_S) -> dict[Key, str | None]:
    """As `Messenger.send`, by one of its own."""
    return Messenger().send(batch, deadline_s)


def _rest(process: subprocess.Popen[str]) -> str:
    """What a killed process said; nothing where another one, which it began, keeps its pipe open."""
    try:
        return process.communicate(timeout=END_S)[0]
    except subprocess.TimeoutExpired as exc:
        said = exc.stdout or b""
        return said.decode(errors="replace") if isinstance(said, bytes) else said


def _read(said: str) -> list[dict[str, Any]]:
    found = []
    for line in said.splitlines():
        # A plugin may print what it likes; of a process that was killed the last line may be cut.
        with suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict):
                found.append(answer)
    return found


def _type(notice: Notice) -> str:
    return "success" if notice.kind == "over" else _TYPES[notice.level]


def _in_file(settings: Settings) -> str:
    path = settings.alert_urls_file
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no UTF-8"
        raise InvalidSetting(
            env_name("alert_urls_file"), str(path), f"cannot be read ({why}): a file of addresses, one in each line"
        ) from None


def _setting_of(settings: Settings, channel: Channel) -> str:
    given = settings.alert_urls
    count = len(parse(given.get_secret_value(), Level.INFO)) if given is not None else 0
    return env_name("alert_urls" if channel.number <= count else "alert_urls_file")
