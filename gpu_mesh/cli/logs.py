"""`gpu-mesh logs`: what this machine logged; and that a command which changes something is logged."""

from __future__ import annotations

import functools
import getpass
import json
import logging
import time
from collections.abc import Mapping
from typing import Any

import click

from gpu_mesh.domain.loglines import LEVELS, Wanted, as_text
from gpu_mesh.domain.moments import span_s
from gpu_mesh.errors import InvalidSetting, InvalidValue, MeshError
from gpu_mesh.services.logreading import LogReader
from gpu_mesh.settings import settings
from workers.logs import log_file, named, to_file

__all__ = ["logs", "recorded"]

logger = logging.getLogger(__name__)

#: Commands of a group that change nothing.
READERS = ("list", "show", "silences", "test")
#: How many lines are shown where nothing says which.
LINES = 200
_COLOURS = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red", "DEBUG": "bright_black"}


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what is logged from now on.")
@click.option("--level", type=click.Choice(LEVELS, case_sensitive=False), default="DEBUG", help="From this level on.")
@click.option("--node", help="Of this node: several may share a machine.")
@click.option(
    "--process", help="Of this process, as `gpu0`, `gpu0@n`, `control`, `beat`, `supervisor`, `redis`, `cli`."
)
@click.option("--since", help="Logged since then: `10m`, `2h`, `1d`.")
@click.option("--task", help="Of this task: its id, or how it begins.")
@click.option("-n", "--lines", type=click.IntRange(0), help=f"So many at most, 0 for all.  [default: {LINES}]")
@click.option("--json", "as_json", is_flag=True, help="Print the lines as they are, JSON.")
def logs(
    follow: bool,
    level: str,
    node: str | None,
    process: str | None,
    since: str | None,
    task: str | None,
    lines: int | None,
    as_json: bool,
) -> None:
    """What this machine's processes logged, the newest last: GPU_MESH_LOG_FILE and what of it was put aside."""
    current = settings()
    file = log_file(current)
    if file is None:
        raise InvalidSetting("GPU_MESH_LOG_FILE", "none", "nothing is logged to a file: name one, or leave it out")
    wanted = Wanted(level.upper(), node, process, _moment(since, time.time()), task)
    if lines is None:
        lines = 0 if since or task else LINES
    with LogReader(file.path, wanted) as reader:
        found = reader.so_far(lines or None)
        for line in found:
            _show(line, as_json)
        if follow:
            for line in reader.to_come():
                _show(line, as_json)
    if not found:
        click.echo(f"nothing of that kind is logged in {file.path}", err=True)


def _moment(since: str | None, now: float) -> float:
    if since is None:
        return 0.0
    if (span := span_s(since)) is None:
        raise InvalidValue("--since", since, "a span such as 10m, 2h or 1d")
    return now - span


def _show(found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
    else:
        click.secho(as_text(found), fg=_COLOURS.get(str(found.get("level"))))


def recorded(command: click.Command, given: str | None = None) -> click.Command:
    """The command with each call told to the log file, who made it and how; of a group its commands that change
    something; with `given` only calls with that option."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            if name not in READERS:
                recorded(inner)
    callback = command.callback
    if callback is None or isinstance(command, click.Group):
        return command

    @functools.wraps(callback)
    def call(*args: Any, **options: Any) -> Any:
        if given is None or options[given]:
            _record(click.get_current_context())
        return callback(*args, **options)

    command.callback = call
    return command


def _record(context: click.Context) -> None:
    said = {name: value for name, value in context.params.items() if value not in (None, False, ())}
    try:
        handler = to_file()
    except MeshError:  # of a setting, say: the command tells of it
        return
    if handler is None:
        return
    named("cli")
    words = " ".join([context.command_path, *(f"{name}={value}" for name, value in said.items())])
    record = logger.makeRecord(logger.name, logging.INFO, "", 0, words, (), None)
    record.__dict__ |= {"action": "command", "user": _user()}
    handler.handle(record)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # one without a name
        return "unknown"
