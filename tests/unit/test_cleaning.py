"""Caches of frameworks after a job (SPEC P7); processes and memory: tests/fault/test_leftovers_of_jobs.py."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import pytest

from workers.cleaning import Cleaner


def torch(calls: list[str], *, initialised: bool, mps: bool = False) -> SimpleNamespace:
    """As much of the module as is asked; initialising CUDA would show."""
    return SimpleNamespace(
        cuda=SimpleNamespace(is_initialized=lambda: initialised, empty_cache=lambda: calls.append("cuda")),
        mps=SimpleNamespace(empty_cache=lambda: calls.append("mps")),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
    )


def cleaned() -> None:
    cleaner = Cleaner()
    for _ in range(2):
        cleaner.begin()
        cleaner.end("job")


def test_caches_of_what_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """P7: after each job, also one that comes soon after another; CUDA only where a job has initialised it."""
    calls: list[str] = []
    monkeypatch.setitem(sys.modules, "torch", torch(calls, initialised=True, mps=True))
    monkeypatch.setitem(sys.modules, "mlx.core", SimpleNamespace(clear_cache=lambda: calls.append("mlx")))
    cleaned()
    assert calls == ["cuda", "mps", "mlx"] * 2
    calls.clear()
    monkeypatch.setitem(sys.modules, "torch", torch(calls, initialised=False))
    monkeypatch.delitem(sys.modules, "mlx.core")
    cleaned()
    assert calls == []


def test_nothing_is_imported() -> None:
    """P7: a process without a framework stays without."""
    assert "torch" not in sys.modules
    cleaned()
    assert "torch" not in sys.modules


def test_a_clean_up_that_fails(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """P7: is logged with the job's name, and fails nothing."""

    def broken() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setitem(sys.modules, "mlx.core", SimpleNamespace(clear_cache=broken))
    with caplog.at_level(logging.ERROR):
        cleaned()
    assert [record.getMessage() for record in caplog.records] == ["job: not all cleaned up"] * 2
