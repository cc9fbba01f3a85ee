"""The mesh's own remote-control commands. Celery's command line knows a command by its being registered there too."""

from __future__ import annotations

from typing import Any

from celery.worker.control import inspect_command

__all__ = ["gpu_health"]


@inspect_command()
def gpu_health(state: Any) -> dict[str, Any]:
    """How the worker's machine, its device and the device's engines are, by the latest report."""
    report: dict[str, Any] = state.consumer.controller.sampler.report()
    return report
