"""Tokens of the API: made, shown, revoked; and whether the API may be served to other machines (SPEC A1)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gpu_mesh.domain.moments import span_s
from gpu_mesh.domain.tokens import ID_BYTES, SECRET_BYTES, Role, Token, check_name, hidden, read_roles, written
from gpu_mesh.errors import BrokerUnavailable, InvalidSetting, InvalidValue
from gpu_mesh.services.listening import is_loopback
from gpu_mesh.settings import Settings, env_name
from gpu_mesh.store import server
from gpu_mesh.store import tokens as store
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["Listed", "check_served", "create", "listed", "open_again", "revoke"]

logger = logging.getLogger(__name__)

#: Longest life that may be asked for, s: ten years. Without one a token has no end.
LONGEST_S = 315_360_000


@dataclass(frozen=True, slots=True)
class Listed:
    """A token as it is shown, times in s since the epoch; `used` to the minute, None: never."""

    token: Token
    used: float | None
    is_over: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        told = {name: value for name, value in self.token.to_dict().items() if name != "digest"}
        return {**told, "expired": self.is_over, "used": self.used}


def create(settings: Settings, name: str, roles: Iterable[str], expires: str | None = None) -> tuple[Token, str]:
    """A new token, and how it is written, which nobody can tell again. `expires`: a span such as `90d`.

    Raises InvalidValue naming the field, BrokerUnavailable.
    """
    check_name(name)
    allowed = read_roles(roles)
    span = None if expires is None else span_s(expires)
    if expires is not None and not (span and span <= LONGEST_S):
        raise InvalidValue("--expires", expires, "a span such as 12h or 90d, at most ten years")
    secret = secrets.token_hex(SECRET_BYTES)
    with mapped_errors(settings), connect(settings) as client:
        now = server.now(client)
        token = Token(
            id=secrets.token_hex(ID_BYTES),
            name=name,
            roles=allowed,
            digest=hidden(secret),
            created=now,
            expires=None if span is None else now + span,
        )
        store.put(client, token)
    return token, written(token.id, secret)


def listed(settings: Settings) -> list[Listed]:
    """All tokens, the oldest first."""
    with mapped_errors(settings), connect(settings) as client:
        book, used = store.book(client), store.used(client)
    tokens = sorted(book.tokens.values(), key=lambda token: token.created)
    return [Listed(token, used.get(token.id), token.is_over(book.now)) for token in tokens]


def revoke(settings: Settings, which: str) -> tuple[Token, int]:
    """Forget the token of that name or id; and how many are left. Raises InvalidValue where there is none."""
    with mapped_errors(settings), connect(settings) as client:
        tokens = store.book(client).tokens
        found = next((one for one in tokens.values() if one.name == which), None) or tokens.get(which)
        if found is None or not store.remove(client, found.id):
            names = ", ".join(sorted(one.name for one in tokens.values())) or "none"
            raise InvalidValue("token", which, f"no token of that name or id; there are: {names}")
        return found, len(tokens) - 1


def open_again(settings: Settings) -> None:
    """Let everybody on this machine in without a token, as before the first one. Raises InvalidValue while there are
    tokens."""
    with mapped_errors(settings), connect(settings) as client:
        if not store.reopen(client):
            raise InvalidValue("token", "open", "there are tokens; revoke them first")


def check_served(settings: Settings) -> None:
    """Raises InvalidSetting where the API would be served to other machines and no token was ever made.

    Where Redis does not answer nothing is refused: to other machines every request needs a token, whatever there is.
    """
    if is_loopback(settings.api_listen):
        return
    try:
        with mapped_errors(settings), connect(settings) as client:
            closed = store.book(client).closed
    except BrokerUnavailable as exc:
        logger.warning("not known yet whether there are tokens: %s", exc, extra={"action": "serve"})
        return
    if not closed:
        raise InvalidSetting(
            env_name("api_listen"),
            settings.api_listen,
            "other machines are let in with a token only, and there is none: serve 127.0.0.1 first, make one with "
            f"`gpu-mesh token create NAME --role {Role.SUBMIT}`, then start this again",
        )
