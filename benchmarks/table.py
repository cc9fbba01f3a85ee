"""Puts the last figures into docs/benchmarks.md, between its marks: `python -m benchmarks.table`."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.rows import Rows, markdown

__all__ = ["DOCUMENT", "RESULTS", "latest", "put_between"]

#: name → {value, unit, baseline, ratio}; baseline and ratio are null where stock Celery cannot.
RESULTS = Path(__file__).parent / "latest.json"
DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: written by `python -m benchmarks.table` -->", "<!-- end of figures -->"


def latest() -> Rows:
    """The last figures; none before the first run."""
    found: Rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    return found


def put_between(document: str, table: str) -> str:
    """The document with the table between its marks. Raises ValueError where they are missing."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document lacks the lines {BEGIN!r} and {END!r}: put them where the figures belong")
    return f"{before}{begin}\n{table}\n{end}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(put_between(DOCUMENT.read_text(encoding="utf-8"), markdown(latest())), encoding="utf-8")
