"""Alerts: what stands, what was, and silences (SPEC H5-H7)."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, status
from pydantic import BaseModel, ConfigDict, Field

from gpu_mesh.api.access import Admin, Reader, by
from gpu_mesh.api.backend import Served
from gpu_mesh.api.problems import NotFound, responses
from gpu_mesh.domain import alerts as domain
from gpu_mesh.errors import InvalidValue
from gpu_mesh.services import alerts as service

__all__ = ["router"]

router = APIRouter(prefix="/alerts", tags=["alerts"])

Level = Literal["INFO", "WARNING", "ERROR", "CRITICAL"]


class Alert(BaseModel):
    """One alert; times in s since the epoch."""

    rule: str = Field(description="What it is about; docs/alerts.md lists them.", examples=["backlog"])
    subject: str = Field(description="Of what: a device, a node, a queue, or `mesh`.", examples=["ai-batch"])
    level: str = Field(description="INFO, WARNING, ERROR or CRITICAL (SPEC H6).", examples=["WARNING"])
    text: str = Field(description="What happened.", examples=["130 tasks wait in ai-batch"])
    remedy: str = Field(description="What to do about it; may be empty.", examples=["add a device"])
    since: float = Field(description="When it was raised.", examples=[1795305600.0])
    over_at: float | None = Field(description="When it was over; null: it stands.")
    silenced: bool = Field(description="Whether a silence keeps it from being told.")


class Alerts(BaseModel):
    """Alerts, those that stand first, then the last that ended."""

    alerts: list[Alert]
    total: int = Field(description="How many match.", examples=[1])
    next: int | None = Field(default=None, description="`offset` of the next page; null: this is the last.")


class Silence(BaseModel):
    """Alerts that nobody is told of."""

    id: str = Field(examples=["3f9c2a71"])
    rule: str = Field(description="A rule, or a pattern.", examples=["backlog"])
    subject: str = Field(description="A subject, or a pattern.", examples=["*"])
    until: float | None = Field(description="Its end, s since the epoch; null: none.")
    by: str = Field(examples=["ann (API)"])
    why: str = Field(examples=["nightly import"])


class Silences(BaseModel):
    """Silences that hold."""

    silences: list[Silence]


class NewSilence(BaseModel):
    """What is to be told to nobody."""

    model_config = ConfigDict(extra="forbid")

    rule: str = Field(min_length=1, max_length=200, description="A rule, or a pattern: `*`.", examples=["backlog"])
    subject: str = Field(
        default="*", min_length=1, max_length=200, description="Of what: `gpu0@office`, or `*@office`.", examples=["*"]
    )
    until: str | None = Field(
        default=None,
        max_length=64,
        description="Its end: `18:00` (in the mesh's time zone), `2026-11-30 09:00`, or a span such as 90m, 2h, 1d.",
        examples=["2h"],
    )
    why: str = Field(default="", max_length=500, description="Shown in the list.", examples=["nightly import"])


@router.get("", responses=responses(422, 503))
def alerts(
    caller: Reader,
    served: Served,
    standing: Annotated[bool | None, Query(description="Only those that stand, or that are over.")] = None,
    level: Annotated[Level | None, Query(description="Of this level.")] = None,
    rule: Annotated[str | None, Query(max_length=200, description="Of this rule.")] = None,
    subject: Annotated[str | None, Query(max_length=200, description="Of this subject.")] = None,
    every: Annotated[bool, Query(description="Also what ended more than a day ago.")] = False,
    offset: Annotated[int, Query(ge=0, le=1_000_000, description="So many are left out.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="At most so many.")] = 100,
) -> Alerts:
    """Alerts that stand, and those that ended within a day."""
    found = [
        one
        for one in _all(service.read(served.settings, every=every))
        if standing in (None, one.over_at is None)
        and level in (None, one.level)
        and rule in (None, one.rule)
        and subject in (None, one.subject)
    ]
    end = offset + limit
    return Alerts(alerts=found[offset:end], total=len(found), next=end if end < len(found) else None)


def _all(seen: service.Overview) -> list[Alert]:
    standing = [
        Alert(
            rule=one.rule,
            subject=one.subject,
            level=one.level.name,
            text=one.text,
            remedy=one.remedy,
            since=one.since,
            over_at=None,
            silenced=seen.is_silenced(one),
        )
        for one in seen.standing
    ]
    past = [
        Alert(
            rule=one.rule,
            subject=one.subject,
            level=one.level,
            text=one.text,
            remedy=one.remedy,
            since=one.raised,
            over_at=one.recovered,
            silenced=False,
        )
        for one in seen.past
    ]
    return standing + past


@router.get("/silences", responses=responses(503))
def silences(caller: Reader, served: Served) -> Silences:
    """Silences that hold."""
    return Silences(silences=[_silence(one) for one in service.read(served.settings).silences])


@router.post("/silences", status_code=status.HTTP_201_CREATED, responses=responses(422, 503))
def silence(caller: Admin, served: Served, new: NewSilence) -> Silence:
    """Have nobody told of alerts of a rule. The log has them all the same; what still stands at its end is told."""
    made, _ = service.silence(
        served.settings, new.rule, subject=new.subject, until=new.until, why=new.why, by=by(caller)
    )
    return _silence(made)


@router.delete("/silences/{silence}", responses=responses(404, 422, 503))
def unsilence(
    caller: Admin,
    served: Served,
    silence: Annotated[str, Path(max_length=200, description="Its id.", examples=["3f9c2a71"])],
) -> Silences:
    """Take a silence back; answers with those that it met."""
    known = [one.id for one in service.read(served.settings).silences]
    if silence not in known:
        raise NotFound("silence", silence, f"one of {', '.join(known) or 'no silence'}")
    try:
        return Silences(silences=[_silence(one) for one in service.unsilence(served.settings, [silence])])
    except InvalidValue:  # its end came in between
        return Silences(silences=[])


def _silence(one: domain.Silence) -> Silence:
    return Silence(id=one.id, rule=one.rule, subject=one.subject, until=one.until, by=one.by, why=one.why)
