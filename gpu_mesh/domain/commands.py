"""From the text of a setting to the commands that restart engines, by device.

    systemctl --user restart ollama                           the one of this node
    gpu0=systemctl restart ollama-0; gpu1=ollama-1.sh         one for each device

Words as a shell has them, quotes included, but there is no shell: nothing is expanded, chained or redirected.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

__all__ = ["ANY_DEVICE", "command_for", "parse"]

#: For every device that is not named.
ANY_DEVICE = ""
#: What stands before a command that is one device's.
_DEVICE = re.compile(r"([a-z]+[0-9]+)=(.*)", re.DOTALL)
#: What only a shell understands; a word of its own, or at the beginning of one.
_SHELL = re.compile(r"&&?|\|\|?|[0-9]?[<>].*|\$\(.*|`.*")
#: One command, up to the `;` or the end: what is quoted or escaped parts nothing.
_PART = re.compile(r"""((?:[^;'"\\]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")*)(;|\Z)""", re.DOTALL)


def parse(text: str) -> Mapping[str, tuple[str, ...]]:
    """The words of each command, by the name of its device, ANY_DEVICE for the node's. Raises ValueError that says
    what is wrong."""
    found: dict[str, tuple[str, ...]] = {}
    for words in _parts(text):
        device, rest = ANY_DEVICE, words
        if words and (named := _DEVICE.fullmatch(words[0])):
            device, rest = named[1], [named[2], *words[1:]] if named[2] else words[1:]
        _check(device, rest)
        if device in found:
            raise ValueError(f"one command for {device or 'the node'}: a second one is {shlex.join(rest)!r}")
        found[device] = tuple(rest)
    return found


def command_for(device: str, commands: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """The command of a device: its own, else the node's; None where there is none."""
    return commands.get(device) or commands.get(ANY_DEVICE)


def _parts(text: str) -> list[list[str]]:
    parts, at = [], 0
    while at <= len(text):
        found = _PART.match(text, at)
        if found is None:
            raise ValueError("words with their quotes closed, as in systemctl --user restart ollama")
        parts.append(shlex.split(found[1]))
        at = found.end() + (not found[2])
    # One `;` at the end does no harm.
    return parts[:-1] if len(parts) > 1 and not parts[-1] else parts


def _check(device: str, words: list[str]) -> None:
    of = f" of {device}" if device else ""
    if not words or not words[0]:
        raise ValueError(f"a command{of}, as in systemctl --user restart ollama")
    for word in words:
        if _SHELL.fullmatch(word):
            raise ValueError(f"a command without {word!r}: there is no shell; put it into a script and name that")
    if "=" in words[0] and "/" not in words[0].partition("=")[0]:
        raise ValueError(f"a program first, not {words[0]!r}; write env {words[0]} … to set a variable for it")
