"""Who asks, and what they may do. The gatekeeper lets callers in; a route's parameter says which roles it admits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from gpu_mesh.api.problems import Refused
from gpu_mesh.domain.tokens import LOCAL, Role, may

__all__ = [
    "LOCAL_CALLER",
    "OPEN_PATHS",
    "REALM",
    "Admin",
    "Caller",
    "Follower",
    "Reader",
    "Role",
    "Submitter",
    "by",
    "let_in",
    "still_in",
]

#: Answered to everybody, without a token: they tell nothing of what the mesh does.
OPEN_PATHS = frozenset(("/", "/health", "/ready", "/openapi.json"))
REALM = 'Bearer realm="gpu-mesh"'
_CALLER, _STILL = "gpu_mesh.caller", "gpu_mesh.still"
#: Only for the OpenAPI document: the gatekeeper has read the token by then.
_scheme = HTTPBearer(
    scheme_name="token",
    bearerFormat="gpumesh_<id>_<secret>",
    description="`gpu-mesh token create` makes one. It needs one of the roles that an operation lists. On loopback "
    "none is needed until the first one is made.",
    auto_error=False,
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the name of its token; `local` where none is needed."""

    name: str
    roles: frozenset[Role]


#: Everybody on this machine, while no token was made.
LOCAL_CALLER = Caller(LOCAL, frozenset(Role))


def let_in(scope: MutableMapping[str, Any], caller: Caller, still: Callable[[], Awaitable[bool]]) -> None:
    """Say who makes the request, and how to learn whether who made it would be let in still."""
    scope[_CALLER], scope[_STILL] = caller, still


async def still_in(scope: MutableMapping[str, Any]) -> bool:
    """Whether who made the request would be let in still: for answers that go on and on."""
    return _STILL not in scope or bool(await scope[_STILL]())


def _admits(*roles: Role) -> Callable[..., Coroutine[Any, Any, Caller]]:
    named = [str(role) for role in dict.fromkeys((*roles, Role.ADMIN))]

    async def admit(request: Request, _: object = Security(_scheme, scopes=named)) -> Caller:
        caller = request.scope.get(_CALLER)
        if not isinstance(caller, Caller):
            raise Refused(401, "unauthorized", "needs a token", headers={"WWW-Authenticate": REALM})
        if not may(caller.roles, roles):
            held = ", ".join(sorted(caller.roles))
            detail = f"needs a token of the role {' or '.join(named)}; {caller.name} has {held}"
            scope = f'{REALM}, error="insufficient_scope", scope="{roles[0]}"'
            raise Refused(403, "forbidden", detail, headers={"WWW-Authenticate": scope})
        return caller

    return admit


#: A parameter of one of these types admits only callers of that role, or of `admin`; `Follower` those of `submit` or
#: `read`, for what is asked of a task by its id.
Follower = Annotated[Caller, Depends(_admits(Role.SUBMIT, Role.READ))]
Reader = Annotated[Caller, Depends(_admits(Role.READ))]
Submitter = Annotated[Caller, Depends(_admits(Role.SUBMIT))]
Admin = Annotated[Caller, Depends(_admits(Role.ADMIN))]


def by(caller: Caller) -> str:
    """Who changed something, as others read it."""
    return f"{caller.name} (API)"
