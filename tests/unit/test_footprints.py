"""What a model was seen to take replaces the estimate (SPEC P6; domain/footprints.py)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.footprints import KEPT_S, Footprint, as_seen, merged
from gpu_mesh.domain.requirements import Requirements, fits

SEEN = {("A40", "gemma4:12b"): Footprint(10.0, 0.0)}
DEVICE = Device(name="gpu0", node="n", kind=DeviceKind.FAKE, gpu_type="A40", memory_gb=12.0, margin_gb=1.0)
SIZES = st.floats(0.1, 100.0)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from([0.0, 60.0, KEPT_S / 2, 2 * KEPT_S, -60.0]), SIZES), min_size=1, max_size=20))
def test_the_most_of_a_day(looks: list[tuple[float, float]]):
    """P6: never less than what was seen last, and never what was last seen longer ago."""
    now, known = 1000.0, None
    seen: list[tuple[float, float]] = []
    for gap, gb in looks:
        now += gap
        known = merged(known, gb, now)
        seen.append((now, gb))
        assert known.gb >= gb
        assert (known.seen_at, known.gb) in seen
        assert 0 <= now - known.seen_at <= KEPT_S


def test_it_is_the_memory_that_counts():
    """P6: whatever the caller said, more or less; for the engine's work alone, that model and that type of device."""
    for said, remote, model, gb in [
        (4.0, True, "gemma4:12b", 10.0),
        (40.0, True, "gemma4:12b", 10.0),
        (0.0, True, "gemma4:12b", 10.0),
        (4.0, False, "gemma4:12b", 4.0),
        (4.0, True, "gemma4:e4b", 4.0),
        (4.0, True, None, 4.0),
    ]:
        needs = Requirements(memory_gb=said, remote=remote, model=model)
        assert as_seen(needs, DEVICE, SEEN, model).memory_gb == gb
    needs = Requirements(memory_gb=40.0, remote=True, model="gemma4:12b")
    assert not fits(needs, DEVICE)
    assert fits(as_seen(needs, DEVICE, SEEN, "gemma4:12b"), DEVICE)
    assert as_seen(needs, Device(**{**DEVICE.to_dict(), "gpu_type": "H200"}), SEEN, "gemma4:12b") is needs
