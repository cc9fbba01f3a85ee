"""Tokens of the API: `gpumesh_<id>_<secret>`, what each may do, and whether one that was shown is known.

A secret is 256 random bits, so one round of SHA-256 hides it: nobody can try them all, however fast the hash. A slow
one (bcrypt, Argon2) helps secrets that people think of, and would cost every request tens of milliseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gpu_mesh.errors import InvalidValue

__all__ = [
    "ID_BYTES",
    "LOCAL",
    "SECRET_BYTES",
    "Book",
    "Role",
    "Token",
    "check_name",
    "hidden",
    "known",
    "may",
    "read_roles",
    "written",
]

#: Random bytes of a secret, and of an id, which is no secret.
SECRET_BYTES, ID_BYTES = 32, 5
#: Who needs no token is called so; no token is.
LOCAL = "local"
_PREFIX = "gpumesh"
_WRITTEN = re.compile(rf"{_PREFIX}_([0-9a-f]{{{2 * ID_BYTES}}})_([0-9a-f]{{{2 * SECRET_BYTES}}})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Role(StrEnum):
    """`submit`: send tasks, and see, follow and cancel those whose id one knows. `read`: see all, change nothing.
    `admin`: everything."""

    SUBMIT = "submit"
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Token:
    """One token as it is kept, without its secret. Times in s since the epoch; `expires` None: never."""

    id: str
    name: str
    roles: frozenset[Role]
    #: SHA-256 of the secret, hex.
    digest: str
    created: float
    expires: float | None = None

    def is_over(self, now: float) -> bool:
        """Whether its time has come."""
        return self.expires is not None and self.expires <= now

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {
            "id": self.id,
            "name": self.name,
            "roles": sorted(self.roles),
            "digest": self.digest,
            "created": self.created,
            "expires": self.expires,
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Token:
        """Raises ValueError, TypeError or KeyError for what is none."""
        expires = found["expires"]
        return cls(
            id=str(found["id"]),
            name=str(found["name"]),
            roles=frozenset(Role(role) for role in found["roles"]),
            digest=str(found["digest"]),
            created=float(found["created"]),
            expires=None if expires is None else float(expires),
        )


@dataclass(frozen=True, slots=True)
class Book:
    """All tokens by id, as Redis had them at `now`, s by its clock. `closed`: a token was made once, so each request
    needs one until `gpu-mesh token open` says otherwise; None: Redis knows nothing of it."""

    tokens: Mapping[str, Token]
    closed: bool | None
    now: float


def written(token_id: str, secret: str) -> str:
    """A token as its holder shows it."""
    return f"{_PREFIX}_{token_id}_{secret}"


def hidden(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def known(tokens: Mapping[str, Token], shown: str, now: float) -> Token | None:
    """The token that was shown; None where there is none like it, or it is over. Takes as long for any wrong secret."""
    match = _WRITTEN.fullmatch(shown)
    if match is None:
        return None
    token = tokens.get(match[1])
    right = hmac.compare_digest(token.digest if token else "", hidden(match[2]))
    return token if token is not None and right and not token.is_over(now) else None


def may(roles: Iterable[Role], wanted: Iterable[Role]) -> bool:
    """Whether one of `roles` is wanted, or all is allowed to it."""
    held = frozenset(roles)
    return Role.ADMIN in held or not held.isdisjoint(wanted)


def check_name(name: str) -> str:
    """Raises InvalidValue for what is no name of a token."""
    if not _NAME.fullmatch(name) or name == LOCAL:
        raise InvalidValue("name", name, f"letters, digits, '.', '_' and '-', at most 63; not '{LOCAL}'")
    return name


def read_roles(roles: Iterable[str]) -> frozenset[Role]:
    """Raises InvalidValue for none, and for one that is no role."""
    given = list(roles)
    for role in given:
        if role not in tuple(Role):
            raise InvalidValue("role", role, f"one of {', '.join(Role)}")
    if not given:
        raise InvalidValue("role", "", f"at least one of {', '.join(Role)}")
    return frozenset(map(Role, given))
