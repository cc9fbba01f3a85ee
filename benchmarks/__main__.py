"""Runs every benchmark, prints a table, writes benchmarks/latest.json."""

from __future__ import annotations

import json
import os
from pathlib import Path

from benchmarks import against_stock

#: name → {value, unit, baseline, ratio}; baseline and ratio are null where stock Celery cannot.
RESULTS = Path(__file__).parent / "latest.json"


def main() -> None:
    """Run, print, write."""
    found = against_stock.run()
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    print(f"{'name':<20}{'value':>12} {'unit':<10}{'stock':>12}{'ratio':>8}")
    for name, row in found.items():
        print(f"{name:<20}{row['value']:>12.2f} {row['unit']:<10}{row['baseline']:>12.2f}{row['ratio']:>8.2f}")


if __name__ == "__main__":
    main()
