"""What a Dockerfile says, and which files .dockerignore keeps out of a build."""

from __future__ import annotations

import fnmatch
import json
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Instruction:
    """`RUN pip …`: the word in capitals, the rest with its continued lines joined; the stage's number, from 0."""

    word: str
    rest: str
    stage: int

    @property
    def exec_form(self) -> list[str]:
        """Its arguments where they are a JSON list; ValueError where a shell would be needed."""
        found: list[str] = json.loads(self.rest)
        return found


def instructions(text: str) -> list[Instruction]:
    """All instructions, in order."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found: list[Instruction] = []
    stage = -1
    for line in re.sub(r"\\\n", " ", lines).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            stage += word.upper() == "FROM"
            found.append(Instruction(word.upper(), rest.strip(), stage))
    return found


def is_ignored(path: str, patterns: list[str]) -> bool:
    """Whether .dockerignore keeps a path of the context out: the last pattern that matches it or a parent decides."""
    parts = path.split("/")
    prefixes = ["/".join(parts[: end + 1]) for end in range(len(parts))]
    ignored = False
    for line in patterns:
        pattern = line.strip().removeprefix("!").rstrip("/")
        if not line.strip() or line.startswith("#"):
            continue
        if any(_matches(prefix, pattern) for prefix in prefixes):
            ignored = not line.startswith("!")
    return ignored


def _matches(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return any(_matches("/".join(path.split("/")[start:]), pattern[3:]) for start in range(path.count("/") + 1))
    return path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern)
