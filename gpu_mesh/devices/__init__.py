"""What hardware is here: one protocol, one module per kind."""

from __future__ import annotations

from gpu_mesh.devices.base import DeviceSource, Process, Reading
from gpu_mesh.devices.detection import detect, read, source_for

__all__ = ["DeviceSource", "Process", "Reading", "detect", "read", "source_for"]
