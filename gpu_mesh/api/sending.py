"""From a body to a task that is sent: checked as a whole first, with the fields named as the client wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import celery

from gpu_mesh.api.models.submitting import Submission
from gpu_mesh.domain.requirements import REQUIREMENT_FIELDS
from gpu_mesh.errors import BrokerUnavailable, InvalidValue, ServiceUnavailable
from gpu_mesh.store.reservations import SENDING, Reservation
from gpu_mesh.tasks.base import GpuTask
from gpu_mesh.tasks.calling import check_call, known_task
from gpu_mesh.tasks.options import HEADER, check_payload, prepare

__all__ = ["Call", "PartlySent", "checked", "send"]


@dataclass(frozen=True, slots=True)
class Call:
    """A task to be sent, all of it sound. `options` are those of `apply_async`."""

    task: Any
    args: list[Any]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    queue: str
    priority: int

    @property
    def is_delayed(self) -> bool:
        """Whether it has a time before which it does not run."""
        return bool(self.options.get("countdown") or self.options.get("eta"))


class PartlySent(Exception):
    """Sending ended early: these were sent, of one it is not known, and why."""

    def __init__(self, sent: list[str], unsure: str, why: BrokerUnavailable | ServiceUnavailable) -> None:
        super().__init__(sent, unsure, why)
        self.sent, self.unsure, self.why = sent, unsure, why


def checked(app: celery.Celery, body: Submission, place: str = "") -> Call:
    """The call that `body` asks for. Raises InvalidTask naming the field, which lies in `place` (`tasks.3.`)."""
    try:
        task = known_task(app, body.task_type, field="task_type")
        check_call(task, body.args, body.kwargs)
        told = body.model_dump(
            include={"priority", "business", "queue", "preemptible", "requirements"}, exclude_none=True
        )
        told = _with_arguments(task, body, told)
        stock = body.model_dump(include={"countdown", "eta", "expires", "ignore_result"}, exclude_none=True)
        header = prepare(str(task.name), getattr(task, "declared", {}), told)["headers"][HEADER]
    except InvalidValue as exc:
        exc.field = place + (f"requirements.{exc.field}" if exc.field in REQUIREMENT_FIELDS else exc.field)
        raise
    return Call(task, body.args, body.kwargs, {**told, **stock}, header["class"], header["priority"])


def _with_arguments(task: Any, body: Submission, told: dict[str, Any]) -> dict[str, Any]:
    """The options `told`, with what the arguments add to them; these are checked by the task's own rules, as a send
    does once more."""
    if not isinstance(task, GpuTask):
        check_payload(body.args, body.kwargs)
        return told
    try:
        return task.checked(body.args, body.kwargs, told)
    except InvalidValue as exc:
        place = "kwargs" if exc.field.partition(".")[0] in body.kwargs else "args"
        exc.field = place if exc.field == place else f"{place}.{exc.field}"
        raise


def send(calls: Sequence[Call], ids: Sequence[str], reservation: Reservation | None = None) -> None:
    """Send each under its id; with a reservation none that was sent. Raises PartlySent."""
    for index, (call, task_id) in enumerate(zip(calls, ids, strict=True)):
        headers = {} if reservation is None else {"headers": {SENDING: reservation.to_header(task_id)}}
        try:
            call.task.apply_async(call.args, call.kwargs, task_id=task_id, **call.options, **headers)
        except (BrokerUnavailable, ServiceUnavailable) as exc:
            raise PartlySent(list(ids[:index]), task_id, exc) from exc
