"""What may be saved, and a task that runs without a mesh (SPEC F2)."""

from __future__ import annotations

import json
import pickle
from datetime import datetime
from types import MappingProxyType

import pytest

from gpu_mesh.celery import MeshCelery
from gpu_mesh.errors import CheckpointTooLarge, InvalidCheckpoint
from gpu_mesh.services.checkpoints import encode
from gpu_mesh.settings import settings
from gpu_mesh.tasks.checkpointing import HandBack, Preempted


@pytest.mark.parametrize("state", [{}, {"done": 3}, [1, 2.5, "é", True, None, {"a": [{}]}], "text", 0, False, 10**30])
def test_what_is_json(state: object):
    """F2: comes back as it was."""
    assert json.loads(encode(state)) == state


def _loop() -> dict[str, object]:
    found: dict[str, object] = {}
    found["self"] = found
    return found


WRONG = [
    (None, "state"),
    ({"at": datetime(2026, 1, 1)}, "state.at"),
    ({"files": [1, {2}]}, "state.files[1]"),
    ({"rate": float("nan")}, "state.rate"),
    ([float("inf")], "state[0]"),
    ({"counts": {3: "c"}}, "state.counts"),
    (b"bytes", "state"),
    (MappingProxyType({}), "state"),
    ("\ud800", "state"),
    (_loop(), "state"),
]


@pytest.mark.parametrize(("state", "field"), WRONG)
def test_what_is_not(state: object, field: str):
    """F2: the error names the part, what it holds and what to do."""
    with pytest.raises(InvalidCheckpoint) as caught:
        encode(state)
    assert caught.value.field == field
    assert caught.value.remedy


def test_what_is_too_large():
    """F2: the limit and a way out are named."""
    limit = int(settings().checkpoint_max_mb * 1_000_000)
    encode("x" * (limit - 2))
    with pytest.raises(CheckpointTooLarge, match=r"GPU_MESH_CHECKPOINT_MAX_MB.*file"):
        encode("x" * limit)


@pytest.fixture
def task():
    """A task of an app without a broker."""
    app = MeshCelery("unit", set_as_current=False, broker="memory://", backend="cache+memory://")
    app.conf.update(task_always_eager=True, task_eager_propagates=True)

    @app.task(lazy=False, shared=False, name="unit.save", bind=True)
    def save(self, key):
        self.checkpoint({key: 1})
        return self.restored, self.should_yield

    return save


def test_it_runs_without_a_mesh(task):
    """F2: called directly and eagerly: nothing is kept, but what could not be is refused all the same."""
    for call in (task, lambda key: task.delay(key).get()):
        assert call("a") == (None, False)
        with pytest.raises(InvalidCheckpoint):
            call(1)


def test_preempted_passes_except_exception():
    """DESIGN §7: an application's catch-all does not eat it."""
    assert not issubclass(Preempted, Exception)
    assert str(Preempted("interactive work waits")) == "interactive work waits"


def test_what_the_parent_is_told_survives_the_way():
    """DESIGN §7: from the child's process."""
    again = pickle.loads(pickle.dumps(HandBack("why", counts=False)))
    assert (again.reason, again.counts) == ("why", False)
