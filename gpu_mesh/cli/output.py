"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.table import Table

from gpu_mesh.errors import InvalidTask

__all__ = [
    "ago",
    "check_task_id",
    "confirm",
    "console",
    "dash",
    "json_option",
    "print_json",
    "progress",
    "table",
    "task_id_argument",
    "yes_option",
]

console = Console(highlight=False)

#: Stands for nothing in a table, and between two columns, characters.
NOTHING, GAP = "–", 2

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
task_id_argument = click.argument("task_id", callback=lambda context, parameter, value: check_task_id(value))
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def check_task_id(value: str) -> str:
    """The id without blanks around it. Raises InvalidTask for nothing: a shell's variable that is not set."""
    if not value.strip():
        raise InvalidTask("task_id", value, "the id that `gpu-mesh submit` printed; `gpu-mesh tasks` shows them")
    return value.strip()


def confirm(question: str) -> bool:
    """Ask on standard error, so that what is printed stays JSON where that is asked for."""
    return click.confirm(question, err=True)


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=not sys.stdout.encoding.lower().startswith("utf")))


def table(
    title: str,
    columns: Sequence[str],
    lines: Iterable[Sequence[object]],
    *,
    empty: str,
    console: Console = console,
) -> None:
    """A table; a column whose name ends in `>` is set right. `empty` is said where there is no line.

    In a narrow terminal every column gives way but `id`, half of which is of no use to the next command; and what such
    a table says last, which are words, comes below it.
    """
    rows = [[dash(cell) for cell in line] for line in lines]
    if not rows:
        console.print(empty)
        return
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    words = columns[0] == "id" and sum(widths) + GAP * (len(widths) - 1) > console.width
    shown = len(columns) - words
    drawn = Table(
        title=title, title_justify="left", box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold"
    )
    for name, width in list(zip(columns, widths, strict=True))[:shown]:
        justify: Literal["left", "right"] = "right" if name.endswith(">") else "left"
        drawn.add_column(name.rstrip(">"), justify=justify, min_width=width if name == "id" else None)
    for row in rows:
        drawn.add_row(*row[:shown])
    console.print(drawn)
    for row in rows:
        if words and row[-1] != NOTHING:
            console.print(f"{row[0]}: {row[-1]}")


def progress(*columns: ProgressColumn) -> Progress:
    """A bar with counts on standard error, gone at its end; `columns` stand behind it. Only in a terminal."""
    on = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        console=on,
        transient=True,
        disable=not on.is_terminal,
    )


def dash(value: object) -> str:
    """A cell: `–` where there is nothing to show."""
    if value is None or value == "":
        return NOTHING
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def ago(seconds: float | None) -> str:
    """A time span as people read it: `0.3 s`, `4 min`, `3 h`."""
    if seconds is None:
        return "–"
    for limit, unit, size in ((60, "s", 1), (3600, "min", 60), (86_400, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}" if unit == "s" else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
