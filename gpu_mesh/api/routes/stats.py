"""Statistics: what ended lately, how long it waited and ran, what it cost (SPEC H3, H8, P4)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from gpu_mesh.api.access import Reader
from gpu_mesh.api.backend import Served
from gpu_mesh.api.examples import REPORT, answer
from gpu_mesh.api.problems import responses
from gpu_mesh.services.stats import report
from gpu_mesh.services.stats_views import Report, parse_span
from gpu_mesh.store import stats as store
from gpu_mesh.store.client import mapped_errors

__all__ = ["router"]

router = APIRouter(prefix="/stats", tags=["statistics"])


class Reports(BaseModel):
    """The reports of every five minutes."""

    reports: list[dict[str, Any]] = Field(
        description="Newest first; each as `GET /stats` answers, with `span_s`.", examples=[[REPORT.to_dict()]]
    )


@router.get("", responses=answer(REPORT) | responses(422, 503))
def stats(
    caller: Reader,
    served: Served,
    last: Annotated[
        str, Query(max_length=20, description="How far back, a day at most.", examples=["10min", "1h", "24h"])
    ] = "1h",
    node: Annotated[str | None, Query(max_length=200, description="Only this node.")] = None,
    model: Annotated[str | None, Query(max_length=200, description="Only this model.")] = None,
) -> Report:
    """What ended lately: by queue, node, device and model. docs/statistics.md has each figure's formula and unit."""
    return report(served.settings, parse_span(last)).only(node, model)


@router.get("/reports", responses=responses(422, 503))
def reports(
    caller: Reader,
    served: Served,
    limit: Annotated[int, Query(ge=1, le=288, description="At most so many.")] = 12,
) -> Reports:
    """The mesh's own reports, one for every five minutes."""
    with mapped_errors(served.settings):
        return Reports(reports=store.reports(served.client, limit))
