"""From a worker's report to findings (SPEC H1), pure."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpu_mesh.domain.checkup import Endpoint, of_device, of_endpoint, of_node
from gpu_mesh.domain.health import Finding, Severity


def device(report: dict[str, Any] | None, **more: Any) -> list[tuple[str, str]]:
    given: dict[str, Any] = {"is_alive": True, "is_gpu": True, "where": "local", "old_s": 90.0, **more}
    return [(one.severity.value, one.what) for one in of_device(report, **given)]


ENGINE = {
    "name": "ollama",
    "url": "http://127.0.0.1:11434",
    "reachable": True,
    "ms": 3.0,
    "models": ["m"],
    "error": None,
}


@pytest.mark.parametrize(
    ("report", "found"),
    [
        ({}, []),
        ({"device": None, "engines": []}, []),
        ({"device": {"faults": [], "temperature_c": 60.0}, "engines": [ENGINE]}, []),
        ({"device": {"error": "gpu0 is lost", "hard": True}}, [("fault", "gpu")]),
        ({"device": {"error": "driver mismatch", "hard": False}}, [("failure", "gpu")]),
        ({"device": {"faults": ["row not remapped"], "warnings": ["hot"]}}, [("fault", "gpu"), ("warning", "gpu")]),
        ({"engines": [{**ENGINE, "reachable": False, "error": "refused"}]}, [("failure", "engine")]),
        # In this process: it cannot be away.
        ({"engines": [{**ENGINE, "url": None, "reachable": False}]}, []),
        ({"engines": [{**ENGINE, "loaded": [{"name": "m", "cpu_share": 0.4}]}]}, [("warning", "cpu_fallback")]),
        ({"engines": [{**ENGINE, "loaded": [{"name": "m", "cpu_share": 0.01}]}]}, []),
        ({"age_s": 89.0}, []),
        ({"age_s": 91.0, "engines": [ENGINE]}, [("failure", "worker")]),
        # VRAM of a stranger is no fault (DESIGN §8).
        ({"held_gb": 20.0}, []),
    ],
)
def test_what_a_report_says_of_a_device(report: dict[str, Any], found: list[tuple[str, str]]):
    assert device(report) == found


def test_a_worker_that_says_nothing():
    assert device(None, is_alive=True) == [("failure", "worker")]
    [alive] = of_device(None, is_alive=True, is_gpu=True, where="local", old_s=90.0)
    [dead] = of_device(None, is_alive=False, is_gpu=True, where="local", old_s=90.0)
    assert alive.text != dead.text


def test_a_processor_may_do_all_of_a_model():
    assert device({"engines": [{**ENGINE, "loaded": [{"name": "m", "cpu_share": 1.0}]}]}, is_gpu=False) == []


def test_the_remedy_says_where_the_engine_is():
    """H4: local ones are restarted, of tunnels the operator is told."""
    down = {"engines": [{**ENGINE, "reachable": False, "error": "refused"}]}
    [local] = of_device(down, is_alive=True, is_gpu=True, where="local", old_s=90.0)
    [remote] = of_device(down, is_alive=True, is_gpu=True, where="remote", old_s=90.0)
    assert "GPU_MESH_ENGINE_RESTART" in local.remedy
    assert "tunnel" in remote.remedy
    assert ENGINE["url"] in remote.remedy


@pytest.mark.parametrize(
    ("system", "found"),
    [
        ({"load": 1.0, "memory": 0.5, "disk": 0.5, "skew_s": 0.01}, []),
        ({"load": 9.0}, ["load"]),
        ({"memory": 0.97}, ["memory"]),
        ({"disk": 0.97, "disk_free_gb": 3.0}, ["disk"]),
        # Of a large disk that is plenty.
        ({"disk": 0.97, "disk_free_gb": 200.0}, []),
        ({"skew_s": 2.5}, ["clock"]),
        ({"skew_s": -2.5}, ["clock"]),
        ({"load": None, "memory": "much", "disk": True, "skew_s": None}, []),
        (None, []),
    ],
)
def test_what_a_report_says_of_a_node(system: dict[str, Any] | None, found: list[str]):
    told = of_node(system, silent_s=None)
    assert [one.what for one in told] == found
    assert {one.severity for one in told} <= {Severity.WARNING}


def test_a_node_that_is_silent():
    [told] = of_node(None, silent_s=41.2)
    assert (told.severity, told.what) == (Severity.FAILURE, "node")
    assert "41 s" in told.text


def test_an_address_that_is_watched():
    assert of_endpoint(Endpoint("a40", "http://a40:11434", 12.0, None)) == []
    [told] = of_endpoint(Endpoint("a40", "http://a40:11434", 5000.0, "timed out"))
    assert (told.severity, told.text) == (Severity.FAILURE, "timed out")
    assert "http://a40:11434" in told.remedy


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
parts = st.sampled_from(["device", "engines", "system", "loaded", "error", "hard", "faults", "url", "load", "skew_s"])


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(parts, anything | st.lists(st.dictionaries(parts, anything)), max_size=6))
def test_a_stranger_s_report_breaks_nothing(report: dict[str, Any]):
    """A worker of another version says what it likes."""
    found = [*of_device(report, is_alive=True, is_gpu=True, where="local", old_s=90.0), *of_node(report, silent_s=None)]
    assert all(isinstance(one, Finding) and one.text is not None for one in found)
