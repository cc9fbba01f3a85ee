"""Where alerts go beside the log (SPEC H6): addresses as apprise writes them, and what a message says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote

from gpu_mesh.domain.alerts import Level, Notice

__all__ = ["Channel", "body", "parse", "scrub", "title"]

#: Longest first line, characters: a mail's subject.
TITLE_LENGTH = 160
#: Longest words of a failure, characters.
WORDS_LENGTH = 200
_LEVEL = re.compile(r"([A-Za-z]+)=(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,31})://\S+")
#: Of these the host is a host; of others it may be a token.
_HOST_IS_SHOWN = re.compile(r"(?:mailtos?|jsons?|xmls?|forms?)://(?:[^/@]*@)?([^/:?@]+)")
#: What an address is made of; and the shortest part of it that is hidden in words, characters.
_BETWEEN, SHORTEST_HIDDEN = re.compile(r"[/:@?&=#,;+\s]+"), 4


@dataclass(frozen=True, slots=True)
class Channel:
    """One of them, the `number`-th, which hears what is of `level` or above. Its address holds secrets: `label` does
    not."""

    number: int
    scheme: str
    url: str = field(repr=False)
    level: Level

    @property
    def key(self) -> str:
        """What it goes by in the store."""
        return f"{self.number}:{self.scheme}"

    @property
    def label(self) -> str:
        """What people read: `slack (channel 2)`."""
        return f"{self.scheme} (channel {self.number})"

    def hears(self, notice: Notice) -> bool:
        """Whether it is told of this."""
        return notice.reach >= self.level


def parse(text: str, level: Level, first: int = 1) -> tuple[Channel, ...]:
    """Channels with white space between, each `URL` or `LEVEL=URL`; lines of `#` are comments.

    Raises ValueError that says which one is wrong, by its number, and nothing of what it holds.
    """
    words = [word for line in text.splitlines() if not line.lstrip().startswith("#") for word in line.split()]
    found = []
    for number, word in enumerate(words, first):
        least = level
        if told := _LEVEL.match(word):
            if told[1].upper() not in Level.__members__:
                raise ValueError(f"address {number}: before its `=` one of {', '.join(Level.__members__)}")
            least, word = Level[told[1].upper()], word[told.end() :]
        scheme = _SCHEME.fullmatch(word)
        if scheme is None:
            raise ValueError(
                f"address {number} is none: as apprise writes them, such as mailtos://user:password@host or "
                "slack://…, white space between two (within one, write it as %20)"
            )
        found.append(Channel(number, scheme[1].lower(), word, least))
    return tuple(found)


def scrub(words: str, url: str) -> str:
    """What was said of a failure, in one line, without any part of the address but its scheme, and its host where
    that is no token."""
    host = _HOST_IS_SHOWN.match(url)
    parts = set(_BETWEEN.split(url.partition("://")[2])) - ({host[1]} if host else set())
    parts |= set(map(unquote, parts))
    words = " ".join(words.split())
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= SHORTEST_HIDDEN:
            words = words.replace(part, "***")
    return words[:WORDS_LENGTH]


def title(notice: Notice) -> str:
    """`[gpu-mesh] ERROR gpu0@office: does not answer`, in one line."""
    line = " ".join(f"[gpu-mesh] {notice.level.name} {notice.subject}: {notice.text}".split())
    return line if len(line) <= TITLE_LENGTH else f"{line[: TITLE_LENGTH - 1]}…"


def body(notice: Notice, mesh: str, time: Callable[[float], str]) -> str:
    """Text, remedy, since when, of which mesh; `time` writes a moment as people read it."""
    lines = [f"{notice.subject}: {notice.text}"]
    lines += [f"What to do: {notice.remedy}"] if notice.remedy else []
    lines += [f"Since: {time(notice.since)}", f"Rule: {notice.rule}", f"Mesh: {mesh}"]
    return "\n".join(lines)
