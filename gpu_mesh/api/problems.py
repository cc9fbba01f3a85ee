"""Errors as RFC 9457 has them (application/problem+json), naming the field, the value and the remedy."""

from __future__ import annotations

import http
import logging
import re
import uuid
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from gpu_mesh.errors import (
    VALUE_SHOWN,
    BrokerUnavailable,
    InvalidValue,
    MeshError,
    PayloadTooLarge,
    ServiceUnavailable,
)

__all__ = [
    "MEDIA_TYPE",
    "Fault",
    "Invalid",
    "NotFound",
    "Problem",
    "Refused",
    "install",
    "refusal",
    "response",
    "responses",
    "schemas",
]

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
#: When to try again where realtime work cannot be done (SPEC R4), and where Redis is away, s.
RETRY_SERVICE_S, RETRY_BROKER_S = 15, 5
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_TYPE = "urn:gpu-mesh:problem:"


class Fault(BaseModel):
    """One field that holds what it must not."""

    field: str = Field(description="The field's name, dotted where it lies within another one.", examples=["priority"])
    value: str | None = Field(default=None, description="What it held, as text; cut where long.", examples=["11"])
    remedy: str = Field(description="What is allowed, or what to do.", examples=["an integer from 0 to 10"])


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Which kind of problem; stable.", examples=[f"{_TYPE}invalid-task"])
    title: str = Field(description="The status in words.", examples=["Unprocessable Content"])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(description="What was wrong and what to do.", examples=["priority=11: an integer from 0 to 10"])
    instance: str = Field(description="The path that was asked for.", examples=["/tasks/submit"])
    errors: list[Fault] = Field(default_factory=list, description="Each field that was refused.")


class Refused(Exception):
    """A request is refused: `kind` names the problem (`not-found`), `faults` the fields; `extra` is told as well."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        faults: list[Fault] | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status, kind, detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.faults, self.headers, self.extra = faults or [], dict(headers or {}), dict(extra or {})


class NotFound(Refused):
    """Nothing of that name is known."""

    def __init__(self, field: str, value: str, remedy: str) -> None:
        super().__init__(
            404, "not-found", f"{field}={_shown(value)!r}: {remedy}", faults=[_fault(field, value, remedy)]
        )


class Invalid(Refused):
    """A parameter or header holds what it must not."""

    def __init__(self, field: str, value: object, remedy: str, kind: str = "invalid-request") -> None:
        fault = _fault(field, value, remedy)
        super().__init__(422, kind, _told(fault), faults=[fault])


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: these statuses are problems; with 422 also 400, what cannot be read."""
    also = (400,) if 422 in statuses else ()
    return {
        status: {
            "description": http.HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in (*also, *statuses)
    }


def response(path: str, refused: Refused) -> JSONResponse:
    """The answer to a request for `path` that is refused."""
    problem = Problem(
        type=_TYPE + refused.kind,
        title=http.HTTPStatus(refused.status).phrase,
        status=refused.status,
        detail=refused.detail,
        instance=path,
        errors=refused.faults,
    )
    body = {**problem.model_dump(exclude_defaults=not refused.faults), **refused.extra}
    return JSONResponse(body, refused.status, headers=refused.headers, media_type=MEDIA_TYPE)


def schemas() -> dict[str, Any]:
    """The schemas that `responses` refers to, for the document's components."""
    shown = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**shown.pop("$defs"), "Problem": shown}


def install(app: FastAPI) -> None:
    """Have the app answer every error as a problem, and no error with its stack trace."""

    async def refused(request: Request, exc: Exception) -> JSONResponse:
        told = refusal(exc)
        if told.status == http.HTTPStatus.METHOD_NOT_ALLOWED:
            told.headers["Allow"] = ", ".join(sorted(_methods(request)))
        return response(request.url.path, told)

    for kind in (Refused, MeshError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, refused)


def _methods(request: Request) -> set[str]:
    """Those of every route of this path: Starlette tells of the first one alone."""
    return {
        method
        for method in _METHODS
        for route in request.app.routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    }


def refusal(exc: Exception) -> Refused:
    """How an error is answered; one that should not happen is in the log then, with its stack trace."""
    if isinstance(exc, Refused):
        return exc
    if isinstance(exc, RequestValidationError):
        errors = exc.errors()
        if broken := next((error for error in errors if error["type"] == "json_invalid"), None):
            why = broken.get("ctx", {}).get("error", "it breaks off")
            return Refused(400, "bad-json", f"the body is no JSON: {why}, at character {broken['loc'][-1]}")
        faults = [_of_validation(error) for error in errors]
        return Refused(422, "invalid-request", "; ".join(_told(fault) for fault in faults), faults=faults)
    if isinstance(exc, HTTPException):
        phrase = http.HTTPStatus(exc.status_code).phrase
        return Refused(exc.status_code, phrase.lower().replace(" ", "-"), str(exc.detail), headers=exc.headers)
    if isinstance(exc, MeshError) and (known := _of_mesh(exc)) is not None:
        return known
    number = uuid.uuid4().hex[:12]
    logger.error("request failed, incident %s", number, exc_info=exc, extra={"action": "api"})
    return Refused(500, "internal", f"this should not happen; the API's log has it as incident {number}")


def _of_mesh(exc: MeshError) -> Refused | None:
    kind = _dashed(type(exc).__name__)
    if isinstance(exc, InvalidValue):
        status = 413 if isinstance(exc, PayloadTooLarge) else 422
        fault = _fault(_plain(exc.field), exc.value, exc.remedy)
        return Refused(status, kind, _told(fault), faults=[fault])
    if isinstance(exc, ServiceUnavailable):
        why = f"{exc}: {exc.reason}" if exc.reason else str(exc)
        return Refused(503, kind, why, headers={"Retry-After": str(RETRY_SERVICE_S)})
    if isinstance(exc, BrokerUnavailable):
        return Refused(503, kind, str(exc), headers={"Retry-After": str(RETRY_BROKER_S)})
    return None


def _of_validation(error: Mapping[str, Any]) -> Fault:
    """Of pydantic's: the place begins with `body`, `query`, `path` or `header`."""
    place = [str(part) for part in error["loc"]]
    field = ".".join(place[1:] or place)
    remedy = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return Fault(field=field, remedy="is missing: " + remedy)
    if error["type"] == "extra_forbidden":
        remedy = "no such field"
    return _fault(field, error.get("input"), remedy)


def _plain(field: str) -> str:
    """A field that a service calls as the command line does: `--until`, `RULE`."""
    return field.removeprefix("--").replace("-", "_").lower() if field.startswith("--") or field.isupper() else field


def _fault(field: str, value: object, remedy: str) -> Fault:
    return Fault(field=field, value=_shown(value), remedy=remedy)


def _told(fault: Fault) -> str:
    return f"{fault.field}: {fault.remedy}" if fault.value is None else f"{fault.field}={fault.value}: {fault.remedy}"


def _shown(value: object) -> str:
    # A lone surrogate of a JSON body could not be sent back.
    text = (value if isinstance(value, str) else repr(value)).encode(errors="replace").decode()
    return text if len(text) <= VALUE_SHOWN else text[:VALUE_SHOWN] + "…"


def _dashed(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
