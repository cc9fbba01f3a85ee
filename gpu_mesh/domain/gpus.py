"""What is known of GPU types in advance: how powerful they are and what an hour of one costs.

Both only rank nodes (SPEC P2-P4); neither decides whether a task fits. `powers=` and `costs=` replace them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gpu_mesh.domain.device import type_matches

__all__ = ["GPUS", "PROCESSOR", "UNKNOWN", "GpuFacts", "known", "processor"]

#: Dense FP16 tensor throughput of an RTX 4090, in TFLOP/s.
REFERENCE_TFLOPS = 330.0
#: Memory bandwidth of an RTX 4090, in GB/s (10^9 bytes).
REFERENCE_BANDWIDTH = 1008.0


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """Power relative to an RTX 4090 = 100; cost in US dollars per hour."""

    power: float
    cost_per_hour: float


#: An unknown type: a middling card, so that it is neither sought nor shunned.
UNKNOWN = GpuFacts(power=30.0, cost_per_hour=0.30)
#: Any processor: below every GPU, and next to free.
PROCESSOR = GpuFacts(power=1.0, cost_per_hour=0.05)

# Type: peak TFLOP/s, bandwidth in GB/s, US dollars per hour. The first two are rounded from vendors' data sheets: dense
# FP16 tensor throughput with FP16 accumulation, or plain shader throughput where there are no tensor cores (Apple,
# GTX). The third is a rough marketplace rental price of 2025. Keys are as short as leaves them unmistakable.
_TABLE: dict[str, tuple[float, float, float]] = {
    "GTX 1080 Ti": (11, 484, 0.06),
    "RTX 2060": (52, 336, 0.06),
    "RTX 2060 Super": (57, 448, 0.07),
    "RTX 2070": (60, 448, 0.07),
    "RTX 2070 Super": (73, 448, 0.08),
    "RTX 2080": (81, 448, 0.09),
    "RTX 2080 Super": (89, 496, 0.10),
    "RTX 2080 Ti": (108, 616, 0.12),
    "Titan RTX": (130, 672, 0.20),
    "RTX 3060": (51, 360, 0.08),
    "RTX 3060 Ti": (65, 448, 0.09),
    "RTX 3070": (81, 448, 0.10),
    "RTX 3070 Ti": (87, 608, 0.11),
    "RTX 3080": (119, 760, 0.14),
    "RTX 3080 Ti": (136, 912, 0.17),
    "RTX 3090": (142, 936, 0.22),
    "RTX 3090 Ti": (160, 1008, 0.26),
    "RTX 4060": (60, 272, 0.10),
    "RTX 4060 Ti": (88, 288, 0.13),
    "RTX 4070": (117, 504, 0.16),
    "RTX 4070 Super": (142, 504, 0.18),
    "RTX 4070 Ti": (160, 504, 0.20),
    "RTX 4070 Ti Super": (176, 672, 0.23),
    "RTX 4070 Laptop": (62, 256, 0.12),
    "RTX 4080": (195, 717, 0.28),
    "RTX 4080 Super": (209, 736, 0.30),
    "RTX 4080 Laptop": (97, 432, 0.18),
    "RTX 4090": (REFERENCE_TFLOPS, REFERENCE_BANDWIDTH, 0.40),
    "RTX 4090 Laptop": (132, 576, 0.25),
    "RTX 5060": (77, 448, 0.12),
    "RTX 5060 Ti": (95, 448, 0.15),
    "RTX 5070": (123, 672, 0.20),
    "RTX 5070 Ti": (176, 896, 0.27),
    "RTX 5080": (225, 960, 0.38),
    "RTX 5090": (419, 1792, 0.65),
    "Quadro RTX 4000": (57, 416, 0.10),
    "Quadro RTX 5000": (89, 448, 0.14),
    "Quadro RTX 6000": (130, 672, 0.25),
    "Quadro RTX 8000": (130, 672, 0.32),
    "A2000": (32, 288, 0.09),
    "A4000": (77, 448, 0.18),
    "A4500": (95, 640, 0.22),
    "A5000": (111, 768, 0.26),
    "A5500": (136, 768, 0.32),
    "A6000": (155, 768, 0.50),
    "RTX 2000 Ada": (48, 224, 0.14),
    "RTX 4000 Ada": (82, 360, 0.24),
    "RTX 4500 Ada": (158, 432, 0.34),
    "RTX 5000 Ada": (261, 576, 0.55),
    "RTX 6000 Ada": (364, 960, 0.75),
    "RTX PRO 6000": (500, 1792, 1.60),
    "P40": (12, 346, 0.10),
    "P100": (19, 732, 0.12),
    "T4": (65, 320, 0.20),
    "V100": (125, 900, 0.30),
    "A2": (18, 200, 0.12),
    "A10": (125, 600, 0.60),
    "A10G": (70, 600, 0.75),
    "A16": (18, 200, 0.15),
    "A30": (165, 933, 0.60),
    "A40": (150, 696, 0.40),
    "A100": (312, 1555, 1.20),
    "A100 80GB": (312, 2039, 1.50),
    "L4": (121, 300, 0.45),
    "L40": (181, 864, 0.75),
    "L40S": (362, 864, 0.90),
    "H100": (989, 3350, 2.60),
    "H100 PCIe": (756, 2000, 2.20),
    "H100 NVL": (835, 3938, 2.60),
    "H200": (989, 4800, 3.50),
    "GH200": (989, 4000, 2.50),
    "B200": (2250, 8000, 5.50),
    "GB200": (2500, 8000, 6.50),
    "M1": (2.6, 68, 0.12),
    "M1 Pro": (5.2, 200, 0.25),
    "M1 Max": (10.4, 400, 0.50),
    "M1 Ultra": (20.8, 800, 1.00),
    "M2": (3.6, 100, 0.15),
    "M2 Pro": (6.8, 200, 0.30),
    "M2 Max": (13.5, 400, 0.60),
    "M2 Ultra": (27, 800, 1.20),
    "M3": (3.6, 100, 0.18),
    "M3 Pro": (6.5, 150, 0.35),
    "M3 Max": (14.2, 400, 0.70),
    "M3 Ultra": (28, 819, 1.40),
    "M4": (4.3, 120, 0.20),
    "M4 Pro": (8.6, 273, 0.40),
    "M4 Max": (17.2, 546, 0.80),
}


def _power(tflops: float, bandwidth: float) -> float:
    """A rank, not a benchmark: the geometric mean of compute (training, prompts) and bandwidth (token generation)."""
    return round(100.0 * math.sqrt(tflops / REFERENCE_TFLOPS * bandwidth / REFERENCE_BANDWIDTH), 1)


#: Every known type with its facts.
GPUS: Mapping[str, GpuFacts] = MappingProxyType(
    {name: GpuFacts(_power(tflops, bandwidth), cost) for name, (tflops, bandwidth, cost) in _TABLE.items()}
)


def known(
    gpu_type: str, *, powers: Mapping[str, float] | None = None, costs: Mapping[str, float] | None = None
) -> GpuFacts:
    """The facts of a GPU type, `UNKNOWN`'s where the table lacks it.

    Types match loosely (SPEC P1) and the most specific entry counts: an `NVIDIA GeForce RTX 2060 SUPER` is an
    `RTX 2060 Super` rather than an `RTX 2060`. `powers` and `costs`, by type, win over the table.
    """
    entry = _most_specific(gpu_type, GPUS)
    return _overridden(gpu_type, GPUS[entry] if entry else UNKNOWN, powers, costs)


def processor(
    gpu_type: str, *, powers: Mapping[str, float] | None = None, costs: Mapping[str, float] | None = None
) -> GpuFacts:
    """The facts of a processor used as a device: `PROCESSOR`'s, whatever its name, unless overridden."""
    return _overridden(gpu_type, PROCESSOR, powers, costs)


def _overridden(
    gpu_type: str, facts: GpuFacts, powers: Mapping[str, float] | None, costs: Mapping[str, float] | None
) -> GpuFacts:
    power = _most_specific(gpu_type, powers or {})
    cost = _most_specific(gpu_type, costs or {})
    return GpuFacts(
        power=powers[power] if powers and power else facts.power,
        cost_per_hour=costs[cost] if costs and cost else facts.cost_per_hour,
    )


def _most_specific(gpu_type: str, entries: Iterable[str]) -> str | None:
    """Of the entries that match, the one that says most: letters and digits counted, the first among equals."""
    matching = [entry for entry in entries if type_matches(entry, gpu_type)]
    return max(matching, key=lambda entry: sum(c.isalnum() for c in entry), default=None)
