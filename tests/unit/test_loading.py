"""Room for a model before it is loaded: one main model, residents, budget (SPEC P6, P7), through the real engine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from ollama_stub import OllamaStub
from openai_stub import OpenAIStub
from stub_server import StubServer

from gpu_mesh.devices.apart import Look
from gpu_mesh.devices.base import Process, Reading
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.footprints import Footprint
from gpu_mesh.engines.base import Kind
from gpu_mesh.engines.local import LocalEngine
from gpu_mesh.engines.ollama import OllamaEngine
from gpu_mesh.engines.openai import OpenAIEngine
from gpu_mesh.errors import EngineOutOfMemory, EngineUnavailable
from gpu_mesh.services.loading import LIMIT_S, LOOK_S, make_room
from gpu_mesh.settings import Settings

BIG, SMALL, EMBEDDER = "gemma4:12b", "gemma4:e4b", "nomic-embed-text"


@dataclass
class Bench:
    """A stub, the engine that talks to it, and a clock that the stub follows."""

    stub: OllamaStub
    engine: OllamaEngine
    device: Device
    now: float = 0.0
    sleeps: list[float] = field(default_factory=list)
    #: What the device's own reading says; None: nobody can look.
    reading: Callable[[], Reading | None] | None = None
    looked_at: list[Device] = field(default_factory=list)
    #: What models were seen to take, by type of device and name.
    seen: dict[tuple[str, str], Footprint] = field(default_factory=dict)

    def room(self, model: str | None, kind: Kind = Kind.GENERATE, *, resident: tuple[str, ...] = (), **more: Any):
        current = Settings(_env_file=None, resident_models=resident)
        make_room(
            self.device,
            self.engine,
            model,
            kind,
            current=current,
            look_at=self._look_at,
            clock=lambda: self.now,
            sleep=self._sleep,
            seen=lambda _: self.seen,
            **more,
        )

    def loaded(self) -> list[str]:
        return sorted(known.name for known in self.engine.loaded())

    def load(self, *models: str) -> None:
        for model in models:
            self.engine.load(model)
        self.stub.requests.clear()

    def worked(self) -> bool:
        """Whether the engine was asked for anything but lists."""
        return bool(self.stub.requests)

    def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        self.stub.pass_time(seconds)

    @contextmanager
    def _look_at(self, device: Device) -> Iterator[Look]:
        self.looked_at.append(device)
        yield self.reading or (lambda: None)


def gpu(memory_gb: float = 24.0, margin_gb: float = 1.0, kind: DeviceKind = DeviceKind.NVIDIA) -> Device:
    return Device(name="gpu0", node="n", kind=kind, gpu_type="A40", memory_gb=memory_gb, margin_gb=margin_gb)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with OllamaStub() as stub:
        stub.vram_gb = 24.0
        engine = OllamaEngine(stub.url)
        yield Bench(stub, engine, gpu())
        engine.close()


def test_the_other_main_model_leaves(bench: Bench) -> None:
    """P7: one main model; an embedder that nobody named resident is a main model too."""
    bench.load(SMALL, EMBEDDER)
    bench.room(BIG)
    assert bench.loaded() == []
    assert bench.stub.used_gb == 0
    bench.engine.load(BIG)
    bench.room(f"{EMBEDDER}:latest", Kind.EMBED)
    assert bench.loaded() == []


def test_residents_stay(bench: Bench) -> None:
    """P6: by name, with and without the tag that goes without saying."""
    bench.load(SMALL, EMBEDDER)
    bench.room(BIG, resident=(f"{EMBEDDER}:latest",))
    assert bench.loaded() == [EMBEDDER]


def test_the_example_of_the_order(bench: Bench) -> None:
    """P6: 8 GB, 3 GB margin: main model and embedder stand beside each other, whichever comes first."""
    bench.device = gpu(8.0, 3.0)
    bench.load(SMALL)
    bench.room(EMBEDDER, Kind.EMBED, resident=(EMBEDDER,))
    assert bench.loaded() == [SMALL]
    bench.engine.unload()
    bench.load(EMBEDDER)
    bench.room(SMALL, resident=(EMBEDDER,))
    assert bench.loaded() == [EMBEDDER]


def test_a_resident_without_room_beside_the_main_model_takes_its_place(bench: Bench) -> None:
    """P6: what is loaded already may be more than the budget holds with it."""
    bench.device = gpu(7.0, 1.0)
    bench.load(BIG)
    bench.room(EMBEDDER, Kind.EMBED, resident=(EMBEDDER,))
    assert bench.loaded() == []


@pytest.mark.parametrize(
    ("model", "kind"), [(SMALL, Kind.GENERATE), (None, Kind.GENERATE), (f"{EMBEDDER}:latest", Kind.EMBED)]
)
def test_what_is_loaded_stays(bench: Bench, model: str | None, kind: Kind) -> None:
    """P7: the wanted model is there, and nothing is asked but lists; a stranger's model beside it is left alone."""
    bench.load(SMALL, EMBEDDER)
    bench.room(model, kind)
    assert bench.loaded() == [SMALL, EMBEDDER]
    assert not bench.worked()
    assert bench.looked_at == []


def test_no_model_named(bench: Bench) -> None:
    """P7: room is made for the one that the engine will take: the setting's, else the first that can."""
    bench.load(SMALL)
    bench.room(None, Kind.EMBED)
    assert bench.loaded() == []
    bench.engine.embed(["x"])
    assert bench.loaded() == [EMBEDDER]
    bench.room(None)
    assert bench.loaded() == []


def test_an_unknown_model_unloads_nothing(bench: Bench) -> None:
    """P7: the engine says itself that it has none, unless it may fetch it."""
    bench.load(SMALL)
    bench.room("llama9")
    assert bench.loaded() == [SMALL]
    fetching = OllamaEngine(bench.stub.url, allow_pull=True)
    make_room(None, fetching, "all-minilm", Kind.EMBED, current=Settings(_env_file=None))
    fetching.close()
    assert bench.loaded() == []


def test_it_waits_until_memory_is_back(bench: Bench) -> None:
    """P7: by the engine's list, every 250 ms, no longer than it takes."""
    bench.load(BIG)
    bench.stub.unload_s = 1.1
    bench.room(SMALL)
    assert bench.sleeps == [LOOK_S] * 5
    assert bench.stub.used_gb == 0


def test_it_does_not_wait_for_ever(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """P7: after 5 s the log says what is not back, and the load goes on."""
    bench.load(BIG)
    bench.stub.unload_s = 60.0
    with caplog.at_level(logging.WARNING):
        bench.room(SMALL)
    assert sum(bench.sleeps) == LIMIT_S
    [record] = caplog.records
    assert record.getMessage() == (
        f"after 5 s 0.0 GB of 6.0 GB that {BIG} took are back; {SMALL} is loaded all the same"
    )


def test_the_device_is_asked_rather_than_the_list(bench: Bench) -> None:
    """P7: a list that forgets a model too early is not believed where the device tells; 75 % will do."""
    bench.load(BIG)
    gone_at = 2.0

    def reading() -> Reading:
        held = 6.0 if bench.now < 1.0 else 1.6 if bench.now < gone_at else 1.4
        return Reading(memory_total_gb=24.0, memory_used_gb=2.0 + (held if not bench.loaded() else 6.0))

    bench.reading = reading
    bench.room(SMALL)
    assert bench.now == gone_at
    assert bench.looked_at == [bench.device]


def test_a_device_that_cannot_be_read(bench: Bench) -> None:
    """P7: then the engine's list decides."""
    bench.load(BIG)
    bench.stub.unload_s = 0.4
    bench.reading = lambda: None
    bench.room(SMALL)
    assert len(bench.sleeps) == 2


@pytest.mark.parametrize("kind", [DeviceKind.ENDPOINT, DeviceKind.APPLE, DeviceKind.CPU, DeviceKind.FAKE])
def test_nobody_reads_shared_or_remote_memory(bench: Bench, kind: DeviceKind) -> None:
    """P7: what a reading says there is no word on the engine."""
    bench.device = gpu(kind=kind)
    bench.load(BIG)
    bench.room(SMALL)
    assert bench.loaded() == []
    assert bench.looked_at == []


def test_a_model_that_cannot_fit_unloads_nothing(bench: Bench) -> None:
    """P6: refused with model, size, budget and remedy."""
    bench.device = gpu(8.0, 3.0)
    bench.load(SMALL, EMBEDDER)
    with pytest.raises(EngineOutOfMemory) as refused:
        bench.room(BIG)
    assert bench.loaded() == [SMALL, EMBEDDER]
    assert str(refused.value) == (
        "gemma4:12b takes 6.0 GB; gpu0@n offers 5.0 GB (3 GB margin taken off). Take a smaller model or quantisation, "
        "a device with more memory (memory_gb=6), or a smaller GPU_MESH_MEMORY_MARGIN_GB"
    )


def test_what_a_model_was_seen_to_take_replaces_its_size(bench: Bench) -> None:
    """P6: with its context it takes more than its 6 GB on disk; of another type of device nobody knows. What is loaded
    is what it is."""
    bench.device = gpu(8.0, 1.0)
    bench.seen = {("A40", BIG): Footprint(7.5, 0.0), ("H200", SMALL): Footprint(99.0, 0.0)}
    bench.load(SMALL)
    with pytest.raises(EngineOutOfMemory, match=r"gemma4:12b takes 7\.5 GB; gpu0@n offers 7\.0 GB"):
        bench.room(BIG)
    assert bench.loaded() == [SMALL]
    bench.room(SMALL)
    bench.seen = {("A40", BIG): Footprint(6.5, 0.0)}
    bench.room(BIG)
    assert bench.loaded() == []


def test_residents_count(bench: Bench) -> None:
    """P6: also those that are not loaded now, for they will be."""
    bench.device = gpu(7.0, 0.8)
    bench.load(SMALL)
    bench.room(BIG)
    bench.load(SMALL)
    with pytest.raises(EngineOutOfMemory, match=r"6\.5 GB with the resident nomic.*GPU_MESH_RESIDENT_MODELS"):
        bench.room(BIG, resident=(EMBEDDER,))
    assert bench.loaded() == [SMALL]


def test_a_job_of_several_devices_has_their_memory(bench: Bench) -> None:
    """P1, P6: the budgets add up."""
    bench.device = gpu(4.0)
    with pytest.raises(EngineOutOfMemory):
        bench.room(BIG)
    bench.room(BIG, siblings=(gpu(4.0),))


def test_memory_that_strangers_hold_is_a_warning(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """P6, DESIGN §8: it lowers what is free; it is no fault."""
    held = (Process(pid=7, name="blender", memory_gb=20.0), Process(pid=8))
    bench.reading = lambda: Reading(memory_total_gb=24.0, memory_used_gb=20.0, processes=held)
    with caplog.at_level(logging.WARNING):
        bench.room(SMALL)
    [record] = caplog.records
    assert record.getMessage() == (f"gpu0@n has 4.0 GB free, {SMALL} takes 4.5; its memory is held by: blender 20.0 GB")


def test_an_engine_that_is_away(bench: Bench) -> None:
    """R4: is the error that the work itself would have."""
    bench.stub.stop()
    with pytest.raises(EngineUnavailable):
        bench.room(SMALL)


def test_engines_that_load_by_themselves_are_left_alone() -> None:
    """P7: an OpenAI-compatible server is asked nothing; the engine in this process takes no device's memory."""
    asked: list[str] = []
    with OpenAIStub() as stub:
        _record(stub, asked)
        engine = OpenAIEngine(stub.url)
        make_room(gpu(), engine, "m", Kind.GENERATE)
        engine.close()
    assert asked == []
    looks: list[Device] = []
    make_room(gpu(), LocalEngine(), "wordllama-64", Kind.EMBED, look_at=_looking(looks))
    assert looks == []


def _looking(looks: list[Device]) -> Callable[[Device], Any]:
    @contextmanager
    def look_at(device: Device) -> Iterator[Look]:
        looks.append(device)
        yield lambda: None

    return look_at


def _record(stub: StubServer, asked: list[str]) -> None:
    @stub.app.middleware("http")
    async def note(request: Any, call_next: Any) -> Any:
        asked.append(request.url.path)
        return await call_next(request)
