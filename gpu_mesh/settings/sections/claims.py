"""Who takes which task, and when one goes first, waits or is given up."""

from pydantic import BaseModel

from gpu_mesh.domain.holds import PauseScope
from gpu_mesh.settings.sections.base import setting

__all__ = ["ClaimSettings"]


class ClaimSettings(BaseModel, defer_build=True):
    """Who takes which task, and when one goes first, waits or is given up."""

    lease_ttl_s: float = setting(
        "How long a worker's lease holds without a sign of life; then its jobs run elsewhere",
        unit="s",
        default=10.0,
        ge=0.5,
        le=3600,
    )
    aging_horizon_s: float = setting(
        "Waiting after which a task has the highest score of its class", unit="s", default=1800.0, gt=0, le=86_400 * 7
    )
    affinity_s: float = setting(
        "How long the oldest task of a class may wait while tasks for the loaded model go first",
        unit="s",
        default=60.0,
        ge=0,
        le=86_400,
    )
    gather_s: float = setting(
        "How long a node's idle devices are kept for a task that needs several; then others go first for as long",
        unit="s",
        default=60.0,
        ge=0,
        le=86_400,
    )
    pause_scope: PauseScope = setting(
        "How far a running realtime task (`revenue`, `customer`, `ai-realtime`) of this node holds `ai-batch` back: "
        "`gpu`, `node` or `mesh`",
        default=PauseScope.NODE,
    )
    preempt_after_s: float = setting(
        "How long a task of `internal` or `ai-batch` runs at least before it is asked to yield to a realtime one",
        unit="s",
        default=0.1,
        ge=0,
        le=86_400,
    )
    preempt_limit: int = setting(
        "How often one task may be preempted; then it runs to its end. 0: never",
        unit="times",
        default=50,
        ge=0,
        le=1_000_000,
    )
    max_deliveries: int = setting(
        "How often a message that kills its worker is handed out before it goes to the dead letters",
        unit="deliveries",
        default=5,
        ge=1,
        le=1000,
    )

    unavailable_after_s: float = setting(
        "How long no device may be there that takes `ai-realtime` until its tasks fail and are refused",
        unit="s",
        default=15.0,
        ge=15,
        le=86_400,
    )
    engine_retry_s: float = setting(
        "When a task of `ai-batch` is tried again whose engine does not answer",
        unit="s",
        default=300.0,
        ge=1,
        le=86_400,
    )
    engine_retries: int = setting(
        "How often a task of `ai-batch` is tried again whose engine does not answer; then it fails with that error",
        unit="times",
        default=288,
        ge=0,
        le=1_000_000,
    )
