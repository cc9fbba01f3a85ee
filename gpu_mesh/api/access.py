"""Who asks, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastapi import Depends

__all__ = ["Admin", "Caller", "Reader", "Role", "Submitter", "by"]


class Role(StrEnum):
    """`submit`: send tasks, and see, follow and cancel those whose id one knows. `read`: see all, change nothing.
    `admin`: everything."""

    SUBMIT = "submit"
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the name of its token; `local` where none is needed."""

    name: str
    roles: frozenset[Role]


def _anybody() -> Caller:
    return Caller("local", frozenset(Role))


#: A parameter of one of these types admits only callers of that role, or of `admin`.
Reader = Annotated[Caller, Depends(_anybody)]
Submitter = Annotated[Caller, Depends(_anybody)]
Admin = Annotated[Caller, Depends(_anybody)]


def by(caller: Caller) -> str:
    """Who changed something, as others read it."""
    return f"{caller.name} (API)"
