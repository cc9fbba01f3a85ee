"""When a loop counts as hanging (DESIGN §6)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from workers.consumer import Consumer
from workers.pulse import Pulse


def test_a_pulse():
    """Counted from the last beat, or from Redis's return; not while the loop is left, nor in a stop."""
    now = 100.0
    pulse = Pulse(lambda: now)
    now = 200.0
    assert pulse.still_s == 0.0  # not begun
    pulse.beat()
    now = 203.0
    assert pulse.still_s == 3.0
    pulse.excuse()
    now = 205.0
    assert pulse.still_s == 2.0
    pulse.beat()
    assert pulse.still_s == 0.0
    now = 300.0
    assert pulse.still_s == 95.0
    pulse.rest()
    assert pulse.still_s == 0.0
    pulse.beat()
    now = 400.0
    pulse.end()
    assert pulse.still_s == 0.0


def test_a_loop_that_lost_its_connection_rests():
    """DESIGN §6: until the next one begins, however long the worker takes to connect."""
    now = 100.0
    pulse = Pulse(lambda: now)

    class Unconnected(Consumer):
        def __init__(self) -> None:
            self.controller = SimpleNamespace(pulse=pulse)

    def loop() -> None:
        pulse.beat()
        raise ConnectionError

    with pytest.raises(ConnectionError):
        Unconnected()._turn(loop)
    now = 200.0
    assert pulse.still_s == 0.0
