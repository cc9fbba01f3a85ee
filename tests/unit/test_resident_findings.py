"""What doctor says of resident models (SPEC P6)."""

from __future__ import annotations

from ollama_stub import OllamaStub

from gpu_mesh.cli.engine_findings import engine_findings
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.engines.binding import Engines
from gpu_mesh.settings import Settings


def told(stub: OllamaStub, resident: str, margin_gb: float = 1.0, kind: DeviceKind = DeviceKind.NVIDIA) -> list[str]:
    """What is found of a device of 8 GB besides its engine."""
    device = Device(name="gpu0", node="n", kind=kind, gpu_type="L4", memory_gb=8.0, margin_gb=margin_gb)
    settings = Settings(_env_file=None, engine_urls=f"gpu0={stub.url}", resident_models=resident)
    _, *found = engine_findings([device], settings, Engines(settings, addresses=lambda: [stub.url]))
    assert all(finding.level == "note" and finding.remedy for finding in found)
    return [finding.found for finding in found]


def test_residents() -> None:
    """P6: there and small enough is fine; absent, or more than the budget, is worth a word for each device."""
    with OllamaStub() as stub:
        assert told(stub, "") == []
        assert told(stub, "nomic-embed-text:latest,gemma4:e4b") == []
        assert told(stub, "nomic-embed-text,llama9") == [
            "gpu0: its engine lacks llama9, named in GPU_MESH_RESIDENT_MODELS"
        ]
        assert told(stub, "nomic-embed-text,gemma4:12b", margin_gb=3.0) == [
            "gpu0: the resident nomic-embed-text, gemma4:12b take 6.5 GB, more than its 5.0 GB; no other model has room"
        ]
        stub.stop()
        assert told(stub, "llama9") == []
