"""GpuTask: the default class of every task, which speaks the mesh's options.

@shared_task(queue="ai-realtime", memory_gb=6, model="gemma4:e4b")
def answer(question): ...

answer.apply_async(["…"], business="revenue", priority=9, memory_gb=12, gpu_type="RTX 4090")
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from billiard.common import terminate_handler_fired
from celery.exceptions import Ignore, Retry

from gpu_mesh.devices.detection import VISIBLE
from gpu_mesh.domain.device import Device
from gpu_mesh.domain.requirements import Requirements
from gpu_mesh.errors import EngineUnavailable, TaskExited
from gpu_mesh.services import exclusion, fencing, placement
from gpu_mesh.settings import settings
from gpu_mesh.store.claims import CLAIM_HEADER
from gpu_mesh.tasks import engine_loss
from gpu_mesh.tasks.checkpointing import CheckpointedTask, Preempted
from gpu_mesh.tasks.options import (
    HEADER,
    MESH_OPTIONS,
    check_payload,
    header_of,
    needs_of,
    prepare,
    refuse_misspelt,
)

__all__ = ["PROGRESS", "GpuTask"]

logger = logging.getLogger(__name__)

#: Celery state of a task that says how far it is; its info is `{"done": n, "total": m}`.
PROGRESS = "PROGRESS"
#: Celery's tasks that run another one over a list; `chunks` sends the second.
_REPEATERS = frozenset({"celery.map", "celery.starmap"})
#: Options that not even a class written out keeps as attributes: Celery reads the first two in its own sense,
#: GpuTask has properties of the names of the others.
_TAKEN_OFF = frozenset({"priority", "queue", "device", "requirements"})
#: Either of them says where a task goes.
_QUEUE_CHOICE = frozenset({"business", "queue"})


class GpuTask(CheckpointedTask):
    """A Celery task with needs. Declared options are checked when the task is defined, a call's before it is sent."""

    abstract = True
    #: The worker's side of a run; by name, for it lies above.
    Request = "workers.request:MeshRequest"
    #: The mesh options of the decorator.
    declared: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        given = {name: cls.__dict__[name] for name in MESH_OPTIONS & cls.__dict__.keys()}
        is_decorated = "_decorated" in cls.__dict__
        if is_decorated:
            refuse_misspelt({name: value for name, value in cls.__dict__.items() if not hasattr(GpuTask, name)})
        else:
            # In a class written out, what is no plain value (a property, an application's own object) is not ours.
            given = {name: value for name, value in given.items() if isinstance(value, (str, int, float, Mapping))}
        for name in given.keys() if is_decorated else given.keys() & _TAKEN_OFF:
            delattr(cls, name)
        given = {name: value for name, value in given.items() if value is not None}
        replaced = _QUEUE_CHOICE if given.keys() & _QUEUE_CHOICE else frozenset()
        inherited = {name: value for name, value in cls.declared.items() if name not in replaced}
        cls.declared = {**inherited, **given}
        prepare(str(cls.name), cls.declared, {})

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Send the task, as Celery does, with the mesh's options beside Celery's.

        Raises InvalidTask (naming the field) before anything is sent, BrokerUnavailable when Redis does not answer
        within `GPU_MESH_SUBMIT_TIMEOUT_S`.
        """
        options = self.checked(args, kwargs, options)
        prepared = prepare(*self._routed(kwargs), options)
        if self._get_app().conf.task_always_eager:  # Celery hands them to `apply`, which prepares them
            prepared = options
        return super().apply_async(args, kwargs, *rest, **prepared)

    def checked(self, args: Any, kwargs: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """A call's options, with what its arguments add to them. Raises InvalidTask for arguments that are wrong."""
        if self._get_app().current_worker_task is None:
            check_payload(args, kwargs)  # what a job sends on is work done: it must not be lost for its size
        return dict(options)

    def apply(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Run the task here and now, as Celery does, with the mesh's options checked as a send would check them.

        Raises InvalidTask (naming the field) before the task runs.
        """
        options = prepare(*self._routed(kwargs), options)
        return super().apply(args, kwargs, *rest, **options)

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
        """Run the task. In a worker, its outcome counts only while the claim is still the worker's."""
        if self.request.called_directly:
            return super().__call__(*args, **kwargs)
        if self.request.is_eager:
            return self.run(*args, **kwargs)
        try:
            devices = self.devices
            if (why := exclusion.take(devices)) is not None:
                raise Preempted(why, counts=False)
            with _visible(devices):
                result = self.run(*args, **kwargs)
        except Retry:
            raise
        except Preempted as exc:
            raise self._yielded(exc) from None
        except SystemExit as exc:
            if terminate_handler_fired() or type(exc) is not SystemExit:  # a cancel, or a stop of Celery's
                raise
            # Celery would take its process for lost, and run it again until it is a dead letter.
            self._check_claim()
            raise TaskExited(f"{self.name} called sys.exit({exc.code!r}); return instead, or raise an error") from exc
        except EngineUnavailable as exc:
            self._check_claim()
            if (other := engine_loss.instead(self, exc)) is None:
                raise
            raise other from exc
        except Exception:
            self._check_claim()
            raise
        self._check_claim()
        return result

    @property
    def requirements(self) -> Requirements:
        """What this run may use: as declared, unless its caller said otherwise."""
        mesh = self._header(self.request)
        return Requirements.of(mesh["needs"] if mesh else needs_of(self.declared))

    @property
    def device(self) -> Device | None:
        """The device this run is on; None outside a device's worker."""
        return placement.own_device()

    @property
    def devices(self) -> tuple[Device, ...]:
        """Every device of this run: its worker's, and of a job of several those of the siblings that serve it."""
        own, claim = self.device, self.request.get(CLAIM_HEADER) or {}
        siblings = claim.get("siblings") or ()
        if own is None or not siblings:
            return () if own is None else (own,)
        return (own, *(one for one in placement.online_devices(settings()) if one.worker in siblings))

    def inherited(self) -> dict[str, Any]:
        """Options with which a part of this task goes the way the whole does: `part.s().set(**self.inherited())`."""
        mesh = self._header(self.request)
        if mesh is None:
            return {}
        also = {"preemptible": mesh["preemptible"]} if "preemptible" in mesh else {}
        return {"queue": mesh["class"], "priority": mesh["priority"], "requirements": mesh["needs"], **also}

    def report_progress(self, done: float, total: float, task_id: str | None = None) -> None:
        """Let whoever waits see how far this task (or `task_id`) is."""
        self.update_state(task_id=task_id, state=PROGRESS, meta={"done": done, "total": total})

    def _routed(self, kwargs: Any) -> tuple[str, Mapping[str, Any]]:
        """Name and declared options by which a call is routed: `map` and its like go as the task they repeat."""
        repeated = kwargs["task"] if self.name in _REPEATERS and kwargs else None
        inner = self.app.tasks.get(repeated["task"]) if repeated else None
        return (self.name, self.declared) if inner is None else (inner.name, getattr(inner, "declared", {}))

    @staticmethod
    def _header(request: Any) -> dict[str, Any] | None:
        return header_of({HEADER: request.get(HEADER)}) or header_of(request.headers)

    def _check_claim(self) -> None:
        """Drop the outcome of a run whose claim is another's by now: that one's counts."""
        claim = self.request.get(CLAIM_HEADER)
        if claim and not fencing.still_ours(claim["worker"], claim["tag"], claim.get("asked_at")):
            logger.warning("%s: claim lost, outcome dropped", self.request.id, extra={"action": "fence"})
            raise Ignore


@contextmanager
def _visible(devices: Sequence[Device]) -> Iterator[None]:
    """Show CUDA the devices of a job of several: its worker's process was started with its own alone.

    No help to a process in which an earlier job has initialised CUDA.
    """
    uuids = [device.uuid for device in devices if device.uuid]
    if len(uuids) < 2:
        yield
        return
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = ",".join(uuids)
    try:
        yield
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before
