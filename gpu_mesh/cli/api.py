"""`gpu-mesh api`: the REST API alone."""

from __future__ import annotations

import logging
import os

import click

from gpu_mesh.cli.include import check_include
from gpu_mesh.services.tokens import check_served
from gpu_mesh.settings import env_name, settings
from workers.logs import named, to_file

__all__ = ["api"]

LINE = "%(levelname)s %(name)s: %(message)s"


@click.command()
@click.option("--listen", help="Address to listen on, as GPU_MESH_API_LISTEN.")
@click.option("--port", help="Port, as GPU_MESH_API_PORT.")
# `up` has checked that before it began: what becomes of the tokens later must not end a mesh.
@click.option("--checked", is_flag=True, hidden=True)
def api(listen: str | None, port: str | None, checked: bool) -> None:
    """Serve the REST API: tasks, queues, nodes, alerts, statistics, events, metrics; `/openapi.json` describes it.
    Several may run at once, each at an address of its own. `gpu-mesh up` runs one by itself. Other machines are served
    once there is a token (`gpu-mesh token`)."""
    given = {"api_listen": listen, "api_port": port}
    os.environ.update({env_name(name): value for name, value in given.items() if value is not None})
    settings.cache_clear()
    current = settings()
    named(f"api@{current.node_name}")
    logging.basicConfig(format=LINE, level=current.log_level)
    if (file := to_file()) is not None:
        logging.getLogger().addHandler(file)
    check_include(current)
    if not checked:
        check_served(current)
    from gpu_mesh.api.serving import serve  # FastAPI takes half a second, which no other command needs

    serve(current)
