"""What answers look like, for the OpenAPI document: objects of the types that the routes answer with."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from gpu_mesh.domain.windows import Period, Phase
from gpu_mesh.services.drains import Drained
from gpu_mesh.services.health_views import DeviceVitals, HealthView, NodeVitals
from gpu_mesh.services.snapshot import DeviceView, NodeView, QueueView
from gpu_mesh.services.stats_views import DeviceReport, ModelReport, NodeReport, QueueReport, Report, Times
from gpu_mesh.services.windows import Today
from gpu_mesh.store.windows import Plan

__all__ = ["DRAINED", "NODE", "QUEUE", "REPORT", "TODAY", "answer"]

#: Noon of a Monday in Berlin, and a day ahead, s since the epoch.
_NOON = 1_795_431_600.0
_GPU = "NVIDIA GeForce RTX 4090"

_HEALTHY = HealthView(
    state="healthy",
    success_rate=99.8,
    score=99.2,
    checks=2880,
    failed=5,
    since=_NOON - 7200,
    checked_at=_NOON - 12,
    response_ms=8.4,
    models=["gemma4:e4b"],
)

NODE = NodeView(
    name="office",
    role="lead",
    host="office.lan",
    version="0.1.0",
    status="online",
    silent_s=2.1,
    labels={"trust": "owned"},
    gpu_count=1,
    memory_gb=24.0,
    devices=[
        DeviceView(
            worker="gpu0@office",
            gpu_type=_GPU,
            memory_gb=24.0,
            power=100.0,
            cost_per_hour=0.0,
            running="5f0c9c2e-7d2b-4d5c-9a53-0d2f6f7f8a11",
            condition=HealthView(
                state="healthy", checks=2880, device=DeviceVitals(11.2, 24.0, 0.93, 71.0, 310.0, held_gb=0.4)
            ),
        )
    ],
    condition=HealthView(state="healthy", checks=2880, node=NodeVitals(load=0.42, memory=0.6, disk=0.5)),
)

QUEUE = QueueView(
    name="ai-batch",
    weight=0.5,
    tier="background",
    waiting=214,
    running=1,
    gates=[
        {
            "queue": "ai-batch",
            "reason": "manual",
            "scope": "mesh",
            "since": _NOON - 60,
            "by": "ann (API)",
            "until": None,
            "why": "disk full",
        }
    ],
    closed="paused by ann (API) since 11:59 (disk full)",
)

DRAINED = Drained("gpu0@office", was=False, until=_NOON + 7200, end="14:00 (Europe/Berlin)")

TODAY = Today(
    plan=Plan("09:00-18:00", "Europe/Berlin", by="office"),
    now=_NOON,
    phase=Phase(is_peak=True, until=_NOON + 6 * 3600),
    periods=[Period(_NOON - 3 * 3600, _NOON + 6 * 3600)],
    opened={},
    other=None,
)

_TIMES = Times(mean=1.9, p50=1.4, p95=4.8, p99=7.1)
_DEVICE = DeviceReport(
    worker="gpu0@office",
    gpu_type=_GPU,
    outcomes={"success": 1204, "failure": 3},
    failure_share=0.0025,
    ran_s=2288.0,
    served_s=0.0,
    busy_share=0.64,
    swaps=4,
    cost=0.0,
    condition=_HEALTHY,
)
REPORT = Report(
    since=_NOON - 3600,
    until=_NOON,
    outcomes={"success": 1204, "failure": 3},
    failure_share=0.0025,
    per_minute=20.1,
    preemptions=7,
    swaps=4,
    swaps_saved=31,
    busy_share=0.64,
    cost=0.0,
    queues=[QueueReport("customer", {"success": 1204, "failure": 3}, 0.0025, waited=_TIMES, ran=_TIMES)],
    nodes=[NodeReport("office", True, {"success": 1204, "failure": 3}, 0.0025, 0.64, 4, 0.0, [_DEVICE], _HEALTHY)],
    models=[ModelReport("gemma4:e4b", "gpu0@office", _GPU, {"success": 800}, 0.0, _TIMES, 0.0)],
)


def answer(example: object, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: what it answers looks like this."""
    shown = TypeAdapter(type(example)).dump_python(example, mode="json")
    return {status: {"content": {"application/json": {"example": shown}}}}
