"""What an `llm_inference` may be asked, and how a send of it travels (SPEC T, P1, Q7)."""

from __future__ import annotations

import pytest
from ollama_stub import OllamaStub
from openai_stub import OpenAIStub

from gpu_mesh.celery import MeshCelery
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.requirements import ANYTHING
from gpu_mesh.engines.base import GenerateOptions
from gpu_mesh.errors import EngineUnavailable, InvalidTask
from gpu_mesh.settings import settings
from gpu_mesh.tasks import engine_use
from gpu_mesh.tasks.inference import llm_inference
from gpu_mesh.tasks.options import HEADER
from gpu_mesh.tasks.questions import AskingTask, check_question
from gpu_mesh.testing import mesh_eager

__all__ = ["mesh_eager"]

TURNS = [{"role": "user", "content": "Hello"}]


def test_a_prompt():
    """T: with system and options, Ollama's names too."""
    asked = check_question("Hello", "gemma4:e4b", "Be kind.", {"num_predict": 5})
    assert (asked.prompt, asked.model, asked.system) == ("Hello", "gemma4:e4b", "Be kind.")
    assert asked.options == GenerateOptions(max_tokens=5)
    assert asked.messages is None


def test_messages():
    """T: in place of a prompt."""
    asked = check_question(messages=TURNS)
    assert (asked.prompt, asked.messages) == (None, TURNS)


WRONG = [
    ({}, "prompt"),
    ({"prompt": "a", "messages": TURNS}, "messages"),
    ({"prompt": 7}, "prompt"),
    ({"messages": "Hello"}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "clown", "content": "Hello"}]}, "messages"),
    ({"messages": TURNS, "system": "Be kind."}, "system"),
    ({"messages": TURNS, "options": {"raw": True}}, "options.raw"),
    ({"prompt": "a", "system": 7}, "system"),
    ({"prompt": "a", "model": 7}, "model"),
    ({"prompt": "a", "model": "\ud800"}, "model"),
    ({"prompt": "a", "options": {"temprature": 1}}, "options"),
    ({"prompt": "a", "options": {"temperature": 10**400}}, "options.temperature"),
    ({"prompt": "a", "options": {"temperature": "hot"}}, "options.temperature"),
]


@pytest.mark.parametrize(("given", "field"), WRONG)
def test_a_wrong_question_is_refused_in_the_caller(given: dict[str, object], field: str):
    """Issue 2, Bad input: before anything is sent (there is no Redis here), naming the argument."""
    with pytest.raises(InvalidTask) as caught:
        llm_inference.apply_async(kwargs=given)
    assert caught.value.field == field
    with pytest.raises(InvalidTask):
        llm_inference(**given)


@pytest.fixture
def asking() -> AskingTask:
    """A task of that kind that returns how it travelled."""
    app = MeshCelery("unit", set_as_current=False, broker="memory://", backend="cache+memory://")
    app.conf.update(task_always_eager=True, task_eager_propagates=True)

    def header(self, prompt=None, model=None, system=None, options=None, messages=None):
        return dict(self.request.headers[HEADER])

    return app.task(lazy=False, shared=False, name="llm_inference", bind=True, base=AskingTask)(header)


@pytest.mark.parametrize(("args", "kwargs"), [(("a", "gemma4:e4b"), {}), (("a",), {"model": "gemma4:e4b"})])
def test_the_model_is_a_requirement(asking: AskingTask, args: tuple[str, ...], kwargs: dict[str, str]):
    """P2, P7: so that placement knows of it; the queue is that of the type (Q7)."""
    header = asking.apply_async(args, kwargs).get()
    assert header["needs"] == {"model": "gemma4:e4b"}
    assert header["class"] == "ai-realtime"
    assert asking.apply_async(args, kwargs, model="gemma4:e4b").get()["needs"] == {"model": "gemma4:e4b"}


def test_two_models_are_refused(asking: AskingTask):
    """Issue 2, Bad input."""
    with pytest.raises(InvalidTask, match="name it once") as caught:
        asking.apply_async(["a"], {"model": "gemma4:e4b"}, model="gemma4:12b")
    assert caught.value.field == "model"


def test_wrong_arguments_are_celerys_business(asking: AskingTask):
    """Their names are said as Celery says them."""
    with pytest.raises(TypeError, match="tempo"):
        asking.apply_async(["a"], {"tempo": 3})


def test_in_the_caller_it_asks_this_machines_engine(mesh_eager: object):
    """N1: where no device is served the CPU stands for one; here it has an engine that only embeds."""
    with pytest.raises(EngineUnavailable, match="that can generate was found for cpu0@test-node"):
        llm_inference.delay("Hello")
    with pytest.raises(EngineUnavailable, match="cpu0@test-node"):
        llm_inference("Hello")


@pytest.mark.parametrize("kind", [OllamaStub, OpenAIStub])
def test_in_the_caller_it_answers(kind: type[OllamaStub | OpenAIStub]):
    """Issue 4 §1: by either kind of server; nothing is streamed, for there need be no Redis."""
    name = kind.__name__.removesuffix("Stub").lower()
    with kind() as stub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPU_MESH_ENGINES", name)
        patch.setenv("GPU_MESH_ENGINE_URLS", f"cpu0={stub.url}")
        settings.cache_clear()
        found = llm_inference("Hello there", options={"max_tokens": 3})
        again = llm_inference(messages=TURNS, model=found["model"])
    settings.cache_clear()
    assert (found["text"], found["reason"], found["output_tokens"]) == ("You said: Hello", "length", 3)
    assert (found["engine"], found["device"]) == (name, "cpu0@test-node")
    assert (again["text"], again["model"]) == ("You said: Hello", found["model"])


def test_a_devices_worker_asks_its_own():
    """P7: each device is bound to its own engine."""
    device = Device(name="gpu3", node="n", kind=DeviceKind.FAKE, gpu_type="A40", memory_gb=40)

    class OnDevice(AskingTask):
        requirements = ANYTHING

        @property
        def device(self) -> Device:
            return device

    assert engine_use.engine_of(OnDevice(), engine_use.Kind.EMBED).device == device
