"""Commands that send, wait for and take back tasks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import click
from celery.result import AsyncResult
from celery.states import PENDING, READY_STATES, SUCCESS
from rich.progress import TimeElapsedColumn

from gpu_mesh.celery import app
from gpu_mesh.cli import EXIT_FAILED, EXIT_TIMEOUT
from gpu_mesh.cli.include import check_include
from gpu_mesh.cli.output import json_option, print_json, progress, task_id_argument
from gpu_mesh.cli.streaming import print_stream
from gpu_mesh.domain.preemption import BY_RESTART, NEVER, Preemptible
from gpu_mesh.errors import InvalidTask
from gpu_mesh.services import lookup
from gpu_mesh.services.patience import patiently
from gpu_mesh.services.task_state import progress_of
from gpu_mesh.settings import settings
from gpu_mesh.store.client import connect, mapped_errors
from gpu_mesh.tasks.calling import check_call, known_task

__all__ = ["cancel", "submit", "wait"]

#: How often a wait looks at the state, s.
POLL_S = 0.1
#: What `--preemptible` takes, as a task declares it.
PREEMPTIBLE: dict[str, Preemptible] = {"yes": True, "no": NEVER, "restart": BY_RESTART}


@click.command()
@click.argument("task")
@click.argument("args", default="[]")
@click.option("--kwargs", default="{}", help="Keyword arguments as a JSON object.")
@click.option("--business", help="revenue, customer or internal.")
@click.option("--queue", help="A queue by name.")
@click.option("--priority", type=int, help="0 (low) to 10 (critical); 5 is normal.")
@click.option("--memory-gb", type=float, help="Device memory needed, GB.")
@click.option("--gpu-count", type=int, help="GPUs of one node; 0: a CPU will do.")
@click.option("--gpu-type", help="Preferred GPU type, as in 'RTX 4090'.")
@click.option("--require-gpu-type", is_flag=True, default=None, help="No other type will do.")
@click.option("--model", help="Model the task runs.")
@click.option("--node", help="Only on this node.")
@click.option("--device", help="Only on this device: gpu0, or gpu0@node.")
@click.option("--remote/--no-remote", default=None, help="Whether it may run where only an engine's address is.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Label the device must carry.")
@click.option(
    "--preemptible",
    type=click.Choice([*PREEMPTIBLE]),
    callback=lambda _context, _option, said: said and PREEMPTIBLE[said],
    help="Whether it makes room for a realtime task: at its next checkpoint, never, or killed and begun anew.",
)
@click.option("--wait", "waits", is_flag=True, help="Wait for the result and print it.")
@click.option("--stream", "streams", is_flag=True, help="Print what the task says as it says it.")
@click.option("--timeout", type=click.FloatRange(min=0), help="Wait at most this long, s.")
@json_option
def submit(
    task: str,
    args: str,
    kwargs: str,
    labels: tuple[str, ...],
    waits: bool,
    streams: bool,
    timeout: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Send TASK with ARGS, a JSON list: gpu-mesh submit embeddings '[["a text"]]' --wait."""
    check_include(settings())
    known, given, named = known_task(app, task), _json("ARGS", args, list), _json("--kwargs", kwargs, dict)
    check_call(known, given, named, field="ARGS")
    sent = known.apply_async(given, named, labels=_labels(labels), **options)
    if streams:
        print_stream(sent, timeout, as_json)
    elif waits:
        _wait(sent, timeout, as_json)
    elif as_json:
        print_json({"task_id": sent.id})
    else:
        click.echo(sent.id)


@click.command()
@task_id_argument
@click.option("--stream", "streams", is_flag=True, help="Print what the task says as it says it.")
@click.option("--timeout", type=click.FloatRange(min=0), help="Wait at most this long, s.")
@json_option
def wait(task_id: str, streams: bool, timeout: float | None, as_json: bool) -> None:
    """Wait for a task and print its result as JSON; progress goes to standard error."""
    if streams:
        print_stream(app.AsyncResult(task_id), timeout, as_json)
    else:
        _wait(app.AsyncResult(task_id), timeout, as_json)


@click.command()
@task_id_argument
@json_option
def cancel(task_id: str, as_json: bool) -> None:
    """Take a task back, waiting or running: no worker runs it any more, also none that joins later."""
    met = lookup.cancel(app, settings(), task_id)
    if as_json:
        print_json({"task_id": task_id, "was": met.was, "state": met.state})
    else:
        words = {
            "waiting": "cancelled; it was waiting",
            "running": "cancelled; its run was ended",
            "done": f"too late: it had ended ({met.state})",
            "unknown": "not seen waiting or running; every worker will drop it if it comes",
        }
        click.echo(f"{task_id}: {words[met.was]}")
    if met.was == "done":
        raise click.exceptions.Exit(EXIT_FAILED)


def _json(field: str, text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InvalidTask(field, text, f"JSON ({exc})") from None
    if not isinstance(value, kind):
        raise InvalidTask(field, text, "a JSON list" if kind is list else "a JSON object")
    return value


def _labels(given: tuple[str, ...]) -> dict[str, str] | None:
    pairs = [text.partition("=") for text in given]
    for text, (name, sign, value) in zip(given, pairs, strict=True):
        if not (name and sign and value):
            raise InvalidTask("--label", text, "NAME=VALUE, for instance trust=owned")
    return {name: value for name, _, value in pairs} or None


def _wait(result: AsyncResult, timeout: float | None, as_json: bool) -> None:
    deadline = None if timeout is None else time.monotonic() + timeout
    with mapped_errors(settings()), connect(settings()) as client:
        client.ping()  # a result backend that is away would be waited for in silence
    state = PENDING

    def check_time() -> None:
        if deadline is not None and time.monotonic() >= deadline:
            click.echo(f"{result.id}: still {state} after {timeout:g} s", err=True)
            raise click.exceptions.Exit(EXIT_TIMEOUT)

    with progress(TimeElapsedColumn()) as bar:
        shown = bar.add_task(result.id[:8], total=None)
        while (state := (meta := _read(result, check_time))["status"]) not in READY_STATES:
            check_time()
            if (done := progress_of(meta["result"])) is not None:
                bar.update(shown, completed=done[0], total=done[1])
            time.sleep(POLL_S)
    value = meta["result"]
    if state == SUCCESS:
        print_json({"task_id": result.id, "state": state, "result": value} if as_json else value)
        return
    error = f"{type(value).__name__}: {value}"
    if as_json:
        print_json({"task_id": result.id, "state": state, "error": error})
    else:
        click.echo(f"{result.id}: {state}: {error}", err=True)
    raise click.exceptions.Exit(EXIT_FAILED)


def _read(result: AsyncResult, meanwhile: Callable[[], object]) -> dict[str, Any]:
    """State and value, in one look at the backend: between two they may change."""
    found: dict[str, Any] = patiently(settings(), lambda: result.backend.get_task_meta(result.id), meanwhile)
    return found
