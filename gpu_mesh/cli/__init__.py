"""`gpu-mesh`: run a mesh, send it work, look at it.

Exit codes: 0 done · 1 the task or the check failed · 2 wrong usage or a value refused · 3 the broker is away or
refuses us · 4 waited too long · 78 a setting is refused · 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

import click

from gpu_mesh.errors import BrokerUnavailable, InvalidSetting, InvalidValue, MeshError, NodeNameTaken

__all__ = ["EXIT_BROKER", "EXIT_FAILED", "EXIT_SETTING", "EXIT_TIMEOUT", "EXIT_USAGE", "main"]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_BROKER = 3
EXIT_TIMEOUT = 4
EXIT_SETTING = os.EX_CONFIG
EXIT_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> None:
    """Entry point. A user's mistake is one line on standard error, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal or PYTHONIOENCODING without our characters shows `?`: no reason to fail.
            stream.reconfigure(errors="replace")
    try:
        from gpu_mesh.cli.root import root

        sys.exit(root.main(args=argv, prog_name="gpu-mesh", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except MeshError as exc:
        click.echo(f"error: {exc}", err=True)
        sys.exit(exit_code(exc))


def exit_code(exc: MeshError) -> int:
    """The exit code that stands for an error."""
    if isinstance(exc, (InvalidSetting, NodeNameTaken)):
        return EXIT_SETTING
    if isinstance(exc, InvalidValue):
        return EXIT_USAGE
    if isinstance(exc, BrokerUnavailable):
        return EXIT_BROKER
    return EXIT_FAILED
