"""What `gpu-mesh up` shows the mesh to others with: the REST API and Flower."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gpu_mesh.services import tokens
from gpu_mesh.services.listening import address, check_certificate, listening, scheme
from gpu_mesh.settings import Settings
from workers.node import FLOWER_LISTEN, api_spec, flower_spec
from workers.process import ProcessSpec

__all__ = ["check_served", "shown", "specs"]


def specs(current: Settings) -> list[ProcessSpec]:
    """Their processes. Raises InvalidSetting where an address of one is taken, before anything starts."""
    found = []
    if current.api_enabled:
        check_certificate(current)
        with listening(current.api_listen, current.api_port):
            found.append(api_spec())
    if current.flower_enabled:
        with listening(FLOWER_LISTEN, current.flower_port, "flower_port"):
            found.append(flower_spec(current))
    return found


def check_served(current: Settings) -> None:
    """Raises InvalidSetting where other machines would be served and no token was ever made. Once, as the mesh starts:
    it goes on when the last one is revoked, and lets nobody in."""
    if current.api_enabled:
        tokens.check_served(current)


def shown(current: Settings, found: Iterable[ProcessSpec]) -> Iterator[str]:
    """Where each is, a line for each."""
    places = {
        "api": f"{scheme(current)}://{address(current.api_listen, current.api_port)}",
        "flower": f"http://{address(FLOWER_LISTEN, current.flower_port)}",
    }
    return (f"{spec.name:<7} {places[spec.name]}" for spec in found)
