"""`gpu-mesh top`: the mesh live in a terminal (SPEC H8)."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click
from rich.console import Console
from rich.live import Live

from gpu_mesh.cli.output import console
from gpu_mesh.cli.top_view import frame
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.services import snapshot
from gpu_mesh.services.snapshot import Snapshot
from gpu_mesh.settings import settings
from gpu_mesh.store.client import connect

__all__ = ["top"]

#: Width of a frame that goes to no terminal, characters.
PIPED = 120
_QUIT = ("q", "Q", "\x03")


@click.command()
@click.option(
    "--every", default=1.0, show_default=True, type=click.FloatRange(0.2, 3600), help="Seconds between frames."
)
@click.option("--once", is_flag=True, help="Print one frame and end; so it does where there is no terminal.")
def top(every: float, once: bool) -> None:
    """Nodes, devices, queues, running tasks and alerts, live; q or Ctrl-C ends.

    A broker that goes away is said at the top, and the last that was read stays.
    """
    seen = snapshot.read(settings())
    if once or not (console.is_terminal and sys.stdout.isatty()):
        piped = not sys.stdout.isatty()
        out = Console(highlight=False, width=PIPED) if piped and console.width > PIPED else console
        out.print(frame(seen, width=out.width))
        return
    with _keys() as pressed, suppress(KeyboardInterrupt):
        _live(seen, every, pressed)


def _live(seen: Snapshot, every: float, pressed: Callable[[float], str]) -> None:
    problem = ""
    with connect(settings()) as client, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            # One line less than there are: a full screen would scroll.
            height = console.height - 1
            live.update(frame(seen, width=console.width, height=height, problem=problem), refresh=True)
            if pressed(every) in _QUIT:
                return
            try:
                seen, problem = snapshot.read_from(client, settings()), ""
            except BrokerUnavailable as exc:
                problem = str(exc)


def _sleep(timeout_s: float) -> str:
    time.sleep(timeout_s)
    return ""


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Asks for the key pressed within so many seconds, "" for none, without Enter and without showing it."""
    try:
        import termios
        import tty

        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
    except (ImportError, OSError, ValueError, termios.error):  # no terminal to read from
        yield _sleep
        return

    def pressed(timeout_s: float) -> str:
        ready, _, _ = select.select([number], [], [], timeout_s)
        if not ready:
            return ""
        return os.read(number, 1).decode(errors="replace") or "q"  # its end: nobody can press anything any more

    tty.setcbreak(number)
    try:
        yield pressed
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
