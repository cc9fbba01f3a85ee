"""Running the API: one uvicorn server in this process, which idles at next to no cost."""

from __future__ import annotations

import asyncio
import logging
from types import FrameType

import uvicorn

from gpu_mesh.api import waiting
from gpu_mesh.api.application import create
from gpu_mesh.api.edge import LARGEST_HEAD
from gpu_mesh.api.events import live
from gpu_mesh.api.protocol import protocol
from gpu_mesh.services.listening import address, check_certificate, is_loopback, listening, scheme
from gpu_mesh.settings import Settings

__all__ = ["serve"]

logger = logging.getLogger(__name__)

#: How long requests may go on after a stop is asked for, s; waits and streams end at once.
STOP_S = 5
#: Requests that wait to be accepted.
BACKLOG = 1024
#: uvicorn counts its ticks, ten to a second.
_TICKS = 10


class _Server(uvicorn.Server):
    """uvicorn's looks ten times a second whether it should stop, for ever: 0.3 % of a core. This one is told."""

    _told: asyncio.Event

    async def main_loop(self) -> None:
        self._told = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        counter = 0
        while not await self.on_tick(counter):
            counter += _TICKS
            try:
                await asyncio.wait_for(self._told.wait(), 1.0)
            except TimeoutError:
                continue

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if hasattr(self, "_told"):
            self._loop.call_soon_threadsafe(self._told.set)
            self._loop.call_soon_threadsafe(live.stop, self.config.app)
            self._loop.call_soon_threadsafe(waiting.stop, self.config.app)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises InvalidSetting where it cannot listen, or its certificate is of no use."""
    check_certificate(settings)
    taken = listening(settings.api_listen, settings.api_port)
    config = uvicorn.Config(
        create(settings),
        http=protocol(settings),
        ws="none",
        h11_max_incomplete_event_size=LARGEST_HEAD,
        ssl_certfile=settings.api_tls_cert_file,
        ssl_keyfile=settings.api_tls_key_file,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=STOP_S,
    )
    # Who reads that it serves is let in from then on, a little later.
    taken.listen(BACKLOG)
    at = address(settings.api_listen, settings.api_port)
    if settings.api_tls_cert_file is None and not is_loopback(settings.api_listen):
        words = "tokens travel to %s in the clear: set GPU_MESH_API_TLS_CERT_FILE, or have a proxy speak TLS before it"
        logger.warning(words, at, extra={"action": "serve"})
    logger.info("serving %s://%s", scheme(settings), at, extra={"action": "serve"})
    _Server(config).run(sockets=[taken])
