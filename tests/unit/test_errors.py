"""The error tree, and its way through the result backend (STYLE 8, 18)."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest
from celery import Celery

from gpu_mesh import celery as app_module
from gpu_mesh import errors
from gpu_mesh.errors import VALUE_SHOWN, InvalidTask, InvalidValue, MeshError

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and value.__module__ == errors.__name__]
#: Those that are also errors of another library, beside the layer where they are raised.
JOINED = [value for value in vars(app_module).values() if inspect.isclass(value) and issubclass(value, MeshError)]


def drawn_tree() -> dict[str, str | None]:
    """Each class of the docstring's drawing with its parent, by their indentation."""
    parents: dict[str, str | None] = {}
    path: list[tuple[int, str]] = []
    for line in str(errors.__doc__).splitlines():
        found = re.match(r"([ │]*(?:[├└]── )?)([A-Z][A-Za-z]+)(?:  |$)", line)
        if not found or not line.startswith("    "):
            continue
        depth = len(found[1])
        path = [(at, name) for at, name in path if at < depth]
        parents[found[2]] = path[-1][1] if path else None
        path.append((depth, found[2]))
    return parents


def test_the_drawing_is_the_tree():
    """STYLE, httpx: every class is drawn, under the class it derives from."""
    assert drawn_tree() == {cls.__name__: cls.__base__.__name__ if cls is not MeshError else None for cls in CLASSES}


def test_the_public_names():
    """STYLE, httpx: sorted, and all of them."""
    assert errors.__all__ == sorted(cls.__name__ for cls in CLASSES)


def test_one_base():
    """STYLE: no error family without a base; all are documented."""
    for cls in CLASSES:
        assert issubclass(cls, MeshError)
        assert cls.__doc__
        assert cls.__doc__ != MeshError.__doc__ or cls is MeshError
    assert issubclass(InvalidValue, ValueError)


def example(cls: type[MeshError]) -> MeshError:
    if issubclass(cls, InvalidValue):
        return cls("memory_gb", -1, "gigabytes from 0 to 100,000")
    return cls("Redis at redis://h does not answer; is it running?")


@pytest.mark.parametrize("cls", [*CLASSES, *JOINED])
def test_it_survives_the_json_backend(cls: type[MeshError]):
    """A1: a client gets the error of the worker: same class, arguments and words."""
    backend = Celery("unit", set_as_current=False, backend="cache+memory://").backend
    error = example(cls)
    stored = backend.encode({"status": "FAILURE", "result": backend.prepare_exception(error)})
    again = backend.decode_result(stored)["result"]
    assert type(again) is cls
    assert again.args == error.args
    assert str(again) == str(error)
    if isinstance(error, InvalidValue):
        assert (again.field, again.value, again.remedy) == (error.field, error.value, error.remedy)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j])
def test_a_value_that_is_no_json_survives_as_text(value: object):
    """A1: the field and what to do are still there."""
    backend = Celery("unit", set_as_current=False, backend="cache+memory://").backend
    stored = backend.encode(
        {"status": "FAILURE", "result": backend.prepare_exception(InvalidTask("model", value, "r"))}
    )
    again = backend.decode_result(stored)["result"]
    assert type(again) is InvalidTask
    assert (again.field, again.remedy) == ("model", "r")


@pytest.mark.parametrize("cls", [*CLASSES, *JOINED])
def test_it_pickles(cls: type[MeshError]):
    """DESIGN §1: from a pool's child to its parent."""
    error = example(cls)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert again.args == error.args
    assert str(again) == str(error)


def test_the_message_names_field_value_and_remedy():
    """STYLE 18: in that order; text in quotes."""
    assert str(InvalidTask("memory_gb", "6", "a number")) == "memory_gb='6': a number"
    assert str(InvalidTask("labels", None, "a mapping")) == "labels=None: a mapping"


def test_a_long_value_is_cut():
    """STYLE 18: the remedy stays in sight; the value itself is kept."""
    error = InvalidTask("model", "x" * 10_000, "shorter")
    assert len(str(error)) < VALUE_SHOWN + 30
    assert str(error).endswith("…: shorter")
    assert error.value == "x" * 10_000
