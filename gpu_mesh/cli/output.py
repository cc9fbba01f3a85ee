"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.table import Table

from gpu_mesh.errors import InvalidTask

__all__ = [
    "NOTHING",
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

#: Width of what is no terminal, characters: for the next program a row is a line.
WIDE = 400
_is_piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
console = Console(highlight=False, width=WIDE if _is_piped else None)

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

    In a narrow terminal columns give way, but not in a table of ids, half of which are of no use to the next command:
    there what does not fit comes below the table, a line for each row.
    """
    rows = [[dash(cell) for cell in line] for line in lines]
    if not rows:
        console.print(empty)
        return
    names = [name.rstrip(">") for name in columns]
    widths = [max(map(len, cells)) for cells in zip(names, *rows, strict=True)]
    ends = [sum(widths[: i + 1]) + GAP * i for i in range(len(widths))]
    fits = sum(end <= console.width for end in ends)
    shown = max(1, fits) if names[0] == "id" else len(names)
    drawn = Table(
        title=title, title_justify="left", box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold"
    )
    for name, column, width in list(zip(names, columns, widths, strict=True))[:shown]:
        justify: Literal["left", "right"] = "right" if column.endswith(">") else "left"
        drawn.add_column(name, justify=justify, min_width=width if name == "id" else None)
    for row in rows:
        drawn.add_row(*row[:shown])
    console.print(drawn)
    for row in rows:
        rest = [f"{name} {cell}" for name, cell in list(zip(names, row, strict=True))[shown:-1] if cell != NOTHING]
        # The last column is of words that say for themselves what they are.
        rest += [row[-1]] if shown < len(names) and row[-1] != NOTHING else []
        if rest:
            console.print(f"{row[0]}: {', '.join(rest)}")


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
