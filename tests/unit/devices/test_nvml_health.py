"""What ails a GPU, in NVML's answers (SPEC H1): faults, warnings, and the driver's errors."""

from __future__ import annotations

import pynvml
import pytest

from gpu_mesh.devices import Reading
from gpu_mesh.devices.nvml import NvmlSource
from gpu_mesh.devices.nvml_health import Xids, with_xids
from gpu_mesh.errors import DeviceError

from .stand_ins import Gpu, NvmlLibrary


def reading(gpu: Gpu) -> Reading:
    source = NvmlSource(NvmlLibrary(gpu))
    return source.read(source.devices()[0])


def test_a_gpu_that_is_well() -> None:
    """H1: its figures, and nothing to say."""
    found = reading(Gpu(temperature=61, limit=93, power=120_000, power_limit=450_000, fan=30))
    assert (found.temperature_limit_c, found.power_w, found.power_limit_w, found.fan) == (93.0, 120.0, 450.0, 0.3)
    assert (found.throttles, found.ecc_errors, found.faults, found.warnings) == ((), 0, (), ())


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (pynvml.nvmlClocksThrottleReasonHwThermalSlowdown, ("thermal",)),
        (pynvml.nvmlClocksThrottleReasonSwThermalSlowdown, ("thermal",)),
        (0x08 | 0x40, ("thermal",)),
        (pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown, ("power brake",)),
        (0x08 | 0x40 | 0x80, ("thermal", "power brake")),
        (pynvml.nvmlClocksThrottleReasonHwSlowdown, ("hardware",)),
        # Idle, a clock that was set, and the usual cap of power are how it should be.
        (pynvml.nvmlClocksThrottleReasonGpuIdle | pynvml.nvmlClocksThrottleReasonSwPowerCap, ()),
    ],
)
def test_what_slows_it_down(bits: int, names: tuple[str, ...]) -> None:
    """H1: heat, the power supply, or what the hardware does not name; a warning each."""
    found = reading(Gpu(throttle=bits))
    assert found.throttles == names
    assert [warning.partition(":")[0] for warning in found.warnings] == [f"slowed down ({name})" for name in names]
    assert found.faults == ()


def test_older_drivers_and_older_pynvml_name_it_otherwise() -> None:
    """H1: the function was renamed."""

    class Older(NvmlLibrary):
        nvmlDeviceGetCurrentClocksEventReasons = property()  # as if it were not there

    for library in (
        Older(Gpu(throttle=0x40)),
        NvmlLibrary(
            Gpu(
                throttle=0x40,
                errors={"nvmlDeviceGetCurrentClocksEventReasons": pynvml.NVML_ERROR_FUNCTION_NOT_FOUND},
            )
        ),
    ):
        source = NvmlSource(library)
        assert source.read(source.devices()[0]).throttles == ("thermal",)


@pytest.mark.parametrize(("now", "limit", "warns"), [(87, 93, False), (88, 93, True), (95, 93, True), (95, 0, False)])
def test_heat_near_the_limit(now: int, limit: int, warns: bool) -> None:
    """H1: from 5 degrees below where it slows down; a card that names no limit is judged by none."""
    found = reading(Gpu(temperature=now, limit=limit))
    assert bool(found.warnings) is warns
    assert found.temperature_limit_c == (float(limit) if limit else None)


def test_rows_of_its_memory() -> None:
    """H1: a remapping that waits for a reset is a warning, one that failed a fault."""
    pending, failed = reading(Gpu(remap_pending=1)), reading(Gpu(remap_pending=1, remap_failed=1))
    assert (len(pending.warnings), pending.faults) == (1, ())
    assert (failed.warnings, len(failed.faults)) == ((), 1)


HEALTH = {
    "nvmlDeviceGetTemperatureThreshold": "temperature_limit_c",
    "nvmlDeviceGetPowerUsage": "power_w",
    "nvmlDeviceGetEnforcedPowerLimit": "power_limit_w",
    "nvmlDeviceGetFanSpeed": "fan",
    "nvmlDeviceGetTotalEccErrors": "ecc_errors",
}


@pytest.mark.parametrize("function", HEALTH)
def test_what_a_card_does_not_say_is_null(function: str) -> None:
    """H1: a GeForce has no ECC, a server card no fan."""
    found = reading(Gpu(errors={function: pynvml.NVML_ERROR_NOT_SUPPORTED}))
    assert getattr(found, HEALTH[function]) is None
    assert (found.faults, found.warnings) == ((), ())


@pytest.mark.parametrize(
    ("code", "hard"),
    [
        (pynvml.NVML_ERROR_GPU_IS_LOST, True),
        (pynvml.NVML_ERROR_RESET_REQUIRED, True),
        (pynvml.NVML_ERROR_NOT_FOUND, True),
        (pynvml.NVML_ERROR_TIMEOUT, False),
        (pynvml.NVML_ERROR_UNKNOWN, False),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, False),
    ],
)
def test_whose_fault_it_is(code: int, hard: bool) -> None:
    """H1: what no restart cures makes it unhealthy at once; anything else may pass."""
    library = NvmlLibrary(Gpu())
    source = NvmlSource(library)
    device = source.devices()[0]
    library.gpus[0].errors["nvmlDeviceGetMemoryInfo"] = code
    with pytest.raises(DeviceError) as caught:
        source.read(device)
    assert caught.value.hard is hard
    assert DeviceError(*caught.value.args).hard is hard


class TestXids:
    def test_are_heard_once_and_remembered(self) -> None:
        """H1: NVML tells each once, to who listens then."""
        gpu = Gpu()
        library = NvmlLibrary(gpu)
        xids = Xids("GPU-0", library)
        assert xids.heard() is None
        xids.listen()
        assert xids.heard() == ()
        gpu.xids += [13, 79]
        assert xids.heard() == (13, 79)
        xids.listen()
        gpu.xids += [62]
        assert xids.heard() == (13, 79, 62)
        assert (library.sessions, library.event_sets) == (1, 1)

    def test_a_system_without_events_is_asked_once(self) -> None:
        """H1: WSL; nothing stays open."""
        library = NvmlLibrary(Gpu(errors={"nvmlDeviceRegisterEvents": pynvml.NVML_ERROR_NOT_SUPPORTED}))
        xids = Xids("GPU-0", library)
        for _ in range(2):
            xids.listen()
            assert xids.heard() is None
        assert (library.sessions, library.event_sets, library.inits) == (0, 0, 1)

    def test_a_gpu_that_is_lost_and_comes_back(self) -> None:
        """H1: what was heard stays known, nothing leaks, and it is listened to again."""
        gpu = Gpu()
        library = NvmlLibrary(gpu)
        xids = Xids("GPU-0", library)
        xids.listen()
        gpu.xids.append(79)
        xids.heard()
        lost = dict.fromkeys(("nvmlEventSetWait_v2", "nvmlDeviceGetHandleByUUID"), pynvml.NVML_ERROR_GPU_IS_LOST)
        gpu.errors.update(lost)
        for _ in range(3):
            xids.listen()
            assert xids.heard() == (79,)
        assert (library.sessions, library.event_sets) == (0, 0)
        gpu.errors.clear()
        xids.listen()
        gpu.xids.append(63)
        assert xids.heard() == (79, 63)

    def test_whose_errors_they_are(self) -> None:
        """H1: a program's own are told and are nobody's fault; each counts once."""
        found = with_xids(Reading(), (13, 31, 79, 79, 63))
        assert found.xids == (13, 31, 79, 79, 63)
        assert [fault.partition(":")[0] for fault in found.faults] == ["XID 79"]
        assert [warning.partition(":")[0] for warning in found.warnings] == ["XID 63"]
        assert with_xids(Reading(), None) == Reading()
