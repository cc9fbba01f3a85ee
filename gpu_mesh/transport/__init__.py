"""kombu's Redis transports with our channels. It decides nothing: it calls the claimer it is given."""

from __future__ import annotations

from kombu.transport import TRANSPORT_ALIASES, _transport_cache
from kombu.transport import redis as stock

from gpu_mesh.transport.channel import Channel, SentinelChannel, claim_with

__all__ = ["SentinelTransport", "Transport", "claim_with", "install"]

_ALIASES = {
    "redis": "gpu_mesh.transport:Transport",
    "rediss": "gpu_mesh.transport:Transport",
    "sentinel": "gpu_mesh.transport:SentinelTransport",
}


class Transport(stock.Transport):
    """redis://, rediss:// and redis+socket://."""

    Channel = Channel


class SentinelTransport(stock.SentinelTransport):
    """sentinel://."""

    Channel = SentinelChannel


def install() -> None:
    """Put ours in place of kombu's for every Redis scheme; names of our own would lose TLS (DESIGN §4)."""
    for scheme, name in _ALIASES.items():
        TRANSPORT_ALIASES[scheme] = name
        # Where an application connected before it imported us, kombu remembers its own.
        _transport_cache.pop(scheme, None)
