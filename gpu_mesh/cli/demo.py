"""`gpu-mesh demo`: a real mesh in a temporary folder does real work, and shows who waited how long for what."""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from importlib.metadata import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import click
from celery import states
from celery.exceptions import TimeoutError as ResultTimeout
from celery.result import AsyncResult

import gpu_mesh
from gpu_mesh.celery import app
from gpu_mesh.cli import demo_work
from gpu_mesh.cli.demo_preemption import make_room
from gpu_mesh.cli.output import console, table
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.windows import NONE as NO_PEAK_HOURS
from gpu_mesh.engines import engine_for, vectors
from gpu_mesh.engines.base import Kind
from gpu_mesh.engines.local import MODELS as LOCAL_MODELS
from gpu_mesh.engines.local import LocalEngine
from gpu_mesh.engines.search import top
from gpu_mesh.errors import BrokerUnavailable, EngineError, MeshError
from gpu_mesh.services import lookup
from gpu_mesh.settings import Settings, env_name, names_of, settings
from gpu_mesh.store.client import check_broker
from gpu_mesh.store.redis_process import end_with_parent
from gpu_mesh.tasks.embeddings import embeddings
from gpu_mesh.tasks.inference import llm_inference
from gpu_mesh.tasks.probe import probe
from workers.node import own_devices

__all__ = ["configure", "demo"]

#: How long the mesh may take to start, and the work to end, s.
START_TIMEOUT_S = 60.0
WORK_TIMEOUT_S = 120.0
#: Passages embedded in one piece: small, so that the batch is many jobs and realtime work has something to pass.
PASSAGES_A_PART = 4
#: Shortest and longest passage of the documentation that is embedded, characters.
SHORTEST, LONGEST = 60, 600
#: Log lines shown when the mesh failed.
LOG_TAIL = 30
#: Settings of the environment that hold for the demo too: what hardware and engines there are, how much is logged.
KEPT = (
    *("devices", "gpu_enabled", "memory_margin_gb", "log_level"),
    *("engines", "engine_urls", "engine_key", "chat_model", "embed_model"),
)
#: What ends the demo in order, beside Ctrl-C.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
SEARCHES = (
    "What happens to a job when its machine dies?",
    "How do I add a second machine?",
    "Which queue does a revenue task go to?",
    "How much GPU memory may a task ask for?",
    "Where do I set the broker's address?",
)
#: What a model is asked, and the longest answer, tokens.
QUESTION = "In one short sentence: why should a customer's question not wait for a batch job?"
ANSWER_TOKENS = 60


class DemoFailed(MeshError):
    """The demo's mesh did not start, or not all that was sent came back."""


@click.command()
@click.option("--devices", help="Devices to use, as GPU_MESH_DEVICES; default: those found, else two CPU devices.")
def demo(devices: str | None) -> None:
    """Start a mesh in a temporary folder and run real work on it: the project's own documentation is embedded as
    ai-batch; meanwhile realtime searches and a revenue task pass it, and a batch job makes room for a user. Exit code
    0 only if all that was sent came back."""
    passages = _passages()
    # In a folder of its own no `.env` of the user's is read: the demo must not meet a mesh in production.
    with _orderly_end(), tempfile.TemporaryDirectory(prefix="gpu-mesh-demo-") as folder, chdir(folder):
        found = configure(Path(folder), devices)
        with _mesh(Path(folder), found) as workers:
            console.print(f"A mesh of {', '.join(workers)} is up.\n")
            _work(passages, found)


@contextmanager
def _orderly_end() -> Iterator[None]:
    """SIGTERM and SIGHUP leave as Ctrl-C does: the mesh is stopped and the folder removed."""

    def leave(number: int, frame: FrameType | None) -> None:
        for further in STOP_SIGNALS:
            signal.signal(further, signal.SIG_IGN)
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def configure(folder: Path, devices: str | None) -> tuple[Device, ...]:
    """Set the environment for a mesh of its own in `folder`, whatever the user's own says; the devices it will have."""
    ours = {name for field in Settings.model_fields if field not in KEPT for name in names_of(field)}
    for name in [name for name in os.environ if name.upper() in ours]:
        del os.environ[name]
    chosen = {
        **{"node_name": "demo", "state_dir": str(folder), "embed_chunk": str(PASSAGES_A_PART)},
        **{"peak_hours": NO_PEAK_HOURS, "include": demo_work.__name__, "api_enabled": "false"},
    }
    if devices is not None:
        chosen["devices"] = devices
    os.environ.update({env_name(field): value for field, value in chosen.items()})
    settings.cache_clear()
    found = own_devices(settings())
    if devices is None and not any(device.is_gpu for device in found):
        os.environ[env_name("devices")] = "cpu:2"
        settings.cache_clear()
        found = own_devices(settings())
    return found


@contextmanager
def _mesh(folder: Path, devices: Sequence[Device]) -> Iterator[list[str]]:
    """`gpu-mesh up` as its own process, its log in a file; yields the workers' names once all answer."""
    log = folder / "up.log"
    expected = {device.worker for device in devices}
    console.print("Starting Redis, a worker per device, the control worker and beat …")
    with log.open("wb") as out:
        up = subprocess.Popen(
            [sys.executable, "-m", "gpu_mesh", "up"],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Even where the demo is killed, the mesh stops.
            preexec_fn=end_with_parent(),
        )
    try:
        _await_workers(up, expected, log)
        yield sorted(expected)
    finally:
        up.send_signal(signal.SIGTERM)
        try:
            up.wait(settings().stop_timeout_s + 10)
        except subprocess.TimeoutExpired:
            up.kill()
            up.wait()


def _await_workers(up: subprocess.Popen[bytes], expected: set[str], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and up.poll() is None:
        try:
            check_broker(settings())
            answered = {name for reply in app.control.ping(timeout=0.5) for name in reply}
        except BrokerUnavailable:
            time.sleep(0.2)  # Redis is not there yet
            continue
        if expected <= answered:
            return
    tail = log.read_text(errors="replace").splitlines()[-LOG_TAIL:]
    raise DemoFailed("\n".join(["the mesh did not start; the end of its log:", *tail]))


def _work(passages: list[str], devices: Sequence[Device]) -> None:
    console.print(f"Sent: {len(passages)} passages of the documentation to embed, in ai-batch.")
    started = time.monotonic()
    own = _embedding_model(devices)
    batch = embeddings.apply_async([passages, own], {"encoding": "base64"})
    _await_progress(batch)
    console.print(f"Meanwhile: {len(SEARCHES)} searches in ai-realtime, one task in revenue.\n")
    searches = [
        embeddings.apply_async([[text], own], {"encoding": "base64"}, queue="ai-realtime", priority=7)
        for text in SEARCHES
    ]
    revenue = probe.apply_async(["a deal to sum up"], business="revenue", priority=9)
    queries = [_result(search) for search in searches]
    _result(revenue)
    ahead = not batch.ready()
    embedded = _result(batch)
    _report(passages, embedded, queries, time.monotonic() - started, ahead)
    make_room(embedded, len(devices), _result)
    _ask(devices)


def _ask(devices: Sequence[Device]) -> None:
    """One question to a model, its answer shown as it comes; where there is none, how to get one."""
    if not any(map(_can_answer, devices)):
        console.print(
            "\nNo engine that generates text was found here. Install Ollama (ollama.com/download), run "
            "`ollama pull llama3.2:1b`, and run the demo again: it will ask the model a question."
        )
        return
    console.print(f"\nA customer asks a model (llm_inference): {QUESTION}")
    sent = llm_inference.apply_async([QUESTION], {"options": {"max_tokens": ANSWER_TOKENS}}, business="customer")
    try:
        for piece in gpu_mesh.stream(sent, timeout=WORK_TIMEOUT_S):
            click.echo(piece.text, nl=False)
        answer = _result(sent)
    except (EngineError, ResultTimeout) as exc:
        raise DemoFailed(f"the question was not answered: {exc}") from None
    console.print(f"\n{answer['model']} on {answer['device']}, {answer['seconds']:.1f} s in all.")


def _can_answer(device: Device) -> bool:
    """Whether an engine of the device has a model that generates, or does not tell what its models do."""
    try:
        engine = engine_for(device, settings(), kind=Kind.GENERATE)
        return any(Kind.GENERATE in model.kinds or not model.kinds for model in engine.models())
    except EngineError:
        return False


def _embedding_model(devices: Sequence[Device]) -> str | None:
    """This process's own where every device has it: an engine's would do too, but may have to be loaded first."""
    everywhere = LocalEngine.name in settings().engines and not any(d.kind is DeviceKind.ENDPOINT for d in devices)
    return next(iter(LOCAL_MODELS)) if everywhere else None


def _await_progress(batch: AsyncResult) -> None:
    """Until the first passages are embedded: the searches shall meet a busy mesh."""
    deadline = time.monotonic() + WORK_TIMEOUT_S
    while batch.state in (states.PENDING, states.STARTED) and time.monotonic() < deadline:
        time.sleep(0.01)


def _result(task: AsyncResult) -> Any:
    try:
        return task.get(timeout=WORK_TIMEOUT_S)
    except ResultTimeout:
        raise DemoFailed(f"task {task.id} did not come back within {WORK_TIMEOUT_S:g} s") from None


def _report(
    passages: list[str], embedded: dict[str, Any], queries: list[dict[str, Any]], took_s: float, ahead: bool
) -> None:
    if embedded["count"] != len(passages):
        raise DemoFailed(f"{embedded['count']} vectors came back for {len(passages)} passages")
    ran = lookup.finished_tasks(settings(), limit=10_000)
    waits: dict[str, list[float]] = defaultdict(list)
    for task in ran:
        if task.waited_s is not None:
            waits[task.queue].append(task.waited_s)
    order = [queue for queue in lookup.known_queues(settings()) if queue in waits]
    lines = [
        (queue, len(waits[queue]), f"{statistics.median(waits[queue]):.3f}", f"{max(waits[queue]):.3f}")
        for queue in order
    ]
    table("Jobs by queue", ("queue", "jobs>", "median wait s>", "worst wait s>"), lines, empty="")
    shares = Counter(task.worker for task in ran if task.queue in order and task.worker)
    total = sum(shares.values())
    console.print()
    by_device = ((worker, count, f"{count / total:.0%}") for worker, count in sorted(shares.items()))
    table("Jobs by device", ("device", "jobs>", "share>"), by_device, empty="")
    console.print()
    matrix = vectors.decode(embedded["vectors"], embedded["dimensions"])
    hits = []
    for text, query in zip(SEARCHES, queries, strict=True):
        row, similarity = top(vectors.decode(query["vectors"], query["dimensions"])[0], matrix, 1)[0]
        hits.append((text, f"{similarity:.2f}", passages[row][:100] + ("…" if len(passages[row]) > 100 else "")))
    table("Best hit of each search", ("search", "similarity>", "passage"), hits, empty="")
    console.print(
        f"\n{len(passages)} vectors of {embedded['dimensions']} dimensions ({embedded['model']}) and "
        f"{len(SEARCHES) + 1} urgent tasks in {took_s:.1f} s; "
        + ("the urgent ones were done before the batch." if ahead else "the batch was done before the last of them.")
    )


def _passages() -> list[str]:
    """The documentation in passages: README and docs/ of a source tree, else what the installed wheel carries."""
    root = Path(gpu_mesh.__file__).parent.parent
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md")), root / "CHANGELOG.md"]
    texts = [page.read_text(encoding="utf-8") for page in pages if page.is_file()]
    if not texts:
        texts = [metadata("gpu-mesh")["Description"]]
    modules = sorted(Path(gpu_mesh.__file__).parent.rglob("*.py"))
    texts += [comment for page in modules for comment in re.findall(r'"""(.*?)"""', page.read_text("utf-8"), re.DOTALL)]
    passages = (" ".join(part.split()) for text in texts for part in re.split(r"\n\s*\n|\n(?=[-*|#])", text))
    return list(dict.fromkeys(passage[:LONGEST] for passage in passages if len(passage) >= SHORTEST))
