"""The mesh at a glance, its nodes, and draining them (SPEC A1, A2)."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from gpu_mesh.api.access import Admin, Reader, by
from gpu_mesh.api.backend import Backend, Served
from gpu_mesh.api.examples import DRAINED, NODE, answer
from gpu_mesh.api.names import After, Limit, NodeName, WorkerName, page, path_name
from gpu_mesh.api.problems import NotFound, responses
from gpu_mesh.domain.holds import node_of
from gpu_mesh.domain.queues import CONTROL_QUEUE
from gpu_mesh.domain.stats import ENDS
from gpu_mesh.services import drains
from gpu_mesh.services.drains import Drained
from gpu_mesh.services.snapshot import OFFLINE, ONLINE, NodeView, Snapshot, read_from
from gpu_mesh.store import counters
from gpu_mesh.store.client import mapped_errors

__all__ = ["router"]

router = APIRouter(tags=["mesh"])


class NodeSummary(BaseModel):
    """A node at a glance."""

    gpu_count: int = Field(description="GPUs; a CPU or Apple's unified memory is none (SPEC N1).", examples=[2])
    gpu_type: str = Field(
        description="Types of its devices, separated by commas.", examples=["NVIDIA GeForce RTX 4090"]
    )
    gpu_memory: float = Field(description="Memory that its devices offer together, GB.", examples=[48.0])
    status: str = Field(description="online, or offline: not heard of lately.", examples=[ONLINE])
    health: str = Field(
        description="By its last check: healthy, degraded, unhealthy, offline or unknown (SPEC H2).",
        examples=["healthy"],
    )
    active_tasks: int = Field(description="Tasks that run there.", examples=[1])
    completed_tasks: int = Field(description="Tasks that ended there since the mesh began.", examples=[1204])


class Status(BaseModel):
    """The mesh at a glance. Its own periodic tasks are counted nowhere."""

    coordinator: str | None = Field(description="A node that leads and is online; null: none.", examples=["office"])
    total_nodes: int = Field(description="Nodes that are online.", examples=[2])
    total_gpus: int = Field(description="GPUs of nodes that are online.", examples=[3])
    total_vram: float = Field(description="Memory of the devices of nodes that are online, GB.", examples=[88.0])
    active_tasks: int = Field(description="Tasks that run.", examples=[2])
    queued_tasks: int = Field(description="Tasks that wait; delayed ones are not among them.", examples=[14])
    completed_tasks: int = Field(
        description="Tasks that ended since the mesh began, well or not; cancelled ones left out.", examples=[20311]
    )
    nodes: dict[str, NodeSummary] = Field(description="Every node that is known, by name.")


class Nodes(BaseModel):
    """Nodes by name."""

    nodes: dict[str, NodeView] = Field(description="By name.", examples=[{NODE.name: NODE}])
    total: int = Field(description="How many match, on all pages.", examples=[2])
    next: str | None = Field(default=None, description="`cursor` of the next page; null: this is the last.")


class Drain(BaseModel):
    """How a node or device is to be drained."""

    model_config = ConfigDict(extra="forbid")

    until: str | None = Field(
        default=None,
        max_length=64,
        description="Its end: `20:00` (in the mesh's time zone), `2026-11-30 09:00`, or a span such as 90m, 2h, 1d. "
        "Without: until it is undrained.",
        examples=["2h"],
    )
    why: str = Field(default="", max_length=500, description="Shown to whoever asks.", examples=["new fan"])
    move: bool = Field(default=False, description="What runs there is to go on elsewhere, at once.")
    grace_s: float | None = Field(
        default=None,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="With `move`: how long a job may take to save and yield, s. Default: GPU_MESH_STOP_TIMEOUT_S.",
        examples=[30.0],
    )


@router.get("/mesh/status", responses=responses(503))
def status(caller: Reader, served: Served) -> Status:
    """The whole mesh in a few figures (SPEC A2)."""
    seen, ended = _read(served)
    active = Counter(node_of(str(entry["worker"])) for entry in seen.applications)
    lead = next((node.name for node in seen.online if node.role == "lead"), None)
    return Status(
        coordinator=lead,
        total_nodes=len(seen.online),
        total_gpus=sum(node.gpu_count for node in seen.online),
        total_vram=sum(node.memory_gb for node in seen.online),
        active_tasks=len(seen.applications),
        queued_tasks=sum(queue.waiting for queue in seen.queues if queue.name != CONTROL_QUEUE),
        completed_tasks=sum(ended.values()),
        nodes={
            node.name: NodeSummary(
                gpu_count=node.gpu_count,
                gpu_type=", ".join(dict.fromkeys(device.gpu_type for device in node.devices)),
                gpu_memory=node.memory_gb,
                status=node.status,
                health="unknown" if node.condition is None else node.condition.state,
                active_tasks=active[node.name],
                completed_tasks=ended[node.name],
            )
            for node in seen.nodes
        },
    )


def _read(served: Backend) -> tuple[Snapshot, Counter[str]]:
    """The mesh, and how many tasks of applications ended on each node."""
    with mapped_errors(served.settings):
        seen, counts = read_from(served.client, served.settings), counters.totals(served.client)
    ended: Counter[str] = Counter()
    for (queue, _, outcome, worker), runs in counts.runs.items():
        if queue != CONTROL_QUEUE and outcome in ENDS:
            ended[node_of(worker)] += runs.count
    return seen, ended


@router.get("/mesh/nodes", responses=responses(422, 503))
def nodes(
    caller: Reader,
    served: Served,
    status: Annotated[
        str | None, Query(pattern=f"^({ONLINE}|{OFFLINE})$", description="Only those that are online, or offline.")
    ] = None,
    health: Annotated[
        str | None, Query(max_length=20, description="Only those in this state by their last check.")
    ] = None,
    cursor: After = None,
    limit: Limit = 1000,
) -> Nodes:
    """Nodes with their devices, what these run, and how they are (SPEC A1, H3)."""
    found = {
        node.name: node
        for node in _snapshot(served).nodes
        if status in (None, node.status)
        and health in (None, "unknown" if node.condition is None else node.condition.state)
    }
    shown, more = page(found, cursor, limit)
    return Nodes(nodes=shown, total=len(found), next=more)


@router.get("/mesh/nodes/{name}", responses=answer(NODE) | responses(404, 422, 503))
def node(caller: Reader, served: Served, name: NodeName) -> NodeView:
    """One node."""
    known = {node.name: node for node in _snapshot(served).nodes}
    if name not in known:
        raise NotFound("name", name, f"one of {', '.join(known) or 'no node yet'}")
    return known[name]


@router.post("/mesh/nodes/{name}/drain", responses=answer(DRAINED) | responses(404, 422, 503))
def drain(caller: Admin, served: Served, name: WorkerName, how: Drain | None = None) -> Drained:
    """Have a node, or a device, take no work until it is undrained or `until`. What runs there goes on to its end, or
    with `move` elsewhere. Draining again replaces end and words."""
    how = how or Drain()
    yield_s = None if not how.move else served.settings.stop_timeout_s if how.grace_s is None else how.grace_s
    with path_name("name", "NAME"):
        return drains.drain(served.settings, name, until=how.until, why=how.why, by=by(caller), yield_s=yield_s)


@router.post("/mesh/nodes/{name}/undrain", responses=answer(DRAINED) | responses(404, 422, 503))
def undrain(caller: Admin, served: Served, name: WorkerName) -> Drained:
    """Have a node, or a device, take work again."""
    with path_name("name", "NAME"):
        return drains.undrain(served.settings, name)


def _snapshot(served: Backend) -> Snapshot:
    with mapped_errors(served.settings):
        return read_from(served.client, served.settings)
