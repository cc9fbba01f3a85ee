"""GpuTask: the default class of every task, which speaks the mesh's options.

@shared_task(queue="ai-realtime", memory_gb=6, model="gemma4:e4b")
def answer(question): ...

answer.apply_async(["…"], business="revenue", priority=9, memory_gb=12, gpu_type="RTX 4090")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from celery import Task
from celery.exceptions import Ignore

from gpu_mesh.domain.device import Device
from gpu_mesh.domain.requirements import Requirements
from gpu_mesh.services import placement
from gpu_mesh.tasks.options import HEADER, MESH_OPTIONS, check_payload, header_of, prepare

__all__ = ["PROGRESS", "GpuTask"]

#: Celery state of a task that says how far it is; its info is `{"done": n, "total": m}`.
PROGRESS = "PROGRESS"
#: Pause before a task that landed on a device that does not fit is looked at by the next one, s.
PASS_ON_DELAY_S = 1.0


class GpuTask(Task):
    """A Celery task with needs. Declared options are checked when the task is defined, a call's before it is sent."""

    abstract = True
    #: The mesh options of the decorator.
    declared: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Taken off the class: Celery would read `queue` and `priority` there in its own sense. What is no plain
        # value (a property, an application's own object) is not ours.
        held = {name: cls.__dict__[name] for name in MESH_OPTIONS & cls.__dict__.keys()}
        given = {name: value for name, value in held.items() if isinstance(value, (str, int, float, Mapping))}
        for name in given:
            delattr(cls, name)
        cls.declared = {**cls.declared, **given}
        prepare(str(cls.name), cls.declared, {})

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Send the task, as Celery does, with the mesh's options beside Celery's.

        Raises InvalidTask (naming the field) before anything is sent, BrokerUnavailable when Redis does not answer
        within `GPU_MESH_SUBMIT_TIMEOUT_S`.
        """
        options = prepare(*self._routed(options.get("route_name")), options)
        check_payload(args, kwargs)
        return super().apply_async(args, kwargs, *rest, **options)

    def signature_from_request(self, request: Any = None, *rest: Any, **options: Any) -> Any:
        """The signature of a retry: queue, priority and needs stay those of the run it follows."""
        request = self.request if request is None else request
        signature = super().signature_from_request(request, *rest, **options)
        # Celery copies the wire's priority here, which is not the caller's 0-10; the header holds that.
        signature.options["priority"] = options.get("priority")
        mesh = self._header(request)
        if mesh is not None:
            signature.options["headers"] = {**(signature.options.get("headers") or {}), HEADER: mesh}
            signature.options["queue"] = options.get("queue")
        return signature

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task. In a worker, only on a device that fits: else pass it on."""
        if self.request.called_directly:
            return super().__call__(*args, **kwargs)
        if not self.request.is_eager:
            self._check_device()
        return self.run(*args, **kwargs)

    @property
    def requirements(self) -> Requirements:
        """What this run may use: as declared, unless its caller said otherwise."""
        mesh = self._header(self.request)
        return Requirements.of(mesh["needs"]) if mesh else Requirements()

    @property
    def device(self) -> Device | None:
        """The device this run is on; None outside a device's worker."""
        return placement.own_device()

    def inherited(self) -> dict[str, Any]:
        """Options with which a part of this task goes the way the whole does: `part.s().set(**self.inherited())`."""
        mesh = self._header(self.request)
        if mesh is None:
            return {}
        return {"queue": mesh["class"], "priority": mesh["priority"], "requirements": mesh["needs"]}

    def report_progress(self, done: int, total: int, task_id: str | None = None) -> None:
        """Let whoever waits see how far this task (or `task_id`) is."""
        self.update_state(task_id=task_id, state=PROGRESS, meta={"done": done, "total": total})

    def _routed(self, route_name: str | None) -> tuple[str, Mapping[str, Any]]:
        """Name and declared options by which a call is routed: `map` and its like go as the task they repeat."""
        inner = self.app.tasks.get(route_name) if route_name else None
        return (self.name, self.declared) if inner is None else (inner.name, getattr(inner, "declared", {}))

    @staticmethod
    def _header(request: Any) -> dict[str, Any] | None:
        return header_of({HEADER: request.get(HEADER)}) or header_of(request.headers)

    def _check_device(self) -> None:
        mesh = self._header(self.request)
        if mesh is None or (device := placement.own_device()) is None:
            return
        if not placement.fits_here(Requirements.of(mesh["needs"]), device):
            self.signature_from_request(countdown=PASS_ON_DELAY_S, retries=self.request.retries).apply_async()
            raise Ignore
