"""Runs the benchmarks, prints one table, writes benchmarks/latest.json: `python -m benchmarks [NAME …]`.

Of several named ones only their rows are renewed there.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from benchmarks import (
    affinity,
    against_stock,
    claim_cost,
    failover,
    fleet,
    gate_races,
    idle,
    realtime,
    redis_restart,
    rest,
    storm,
)
from benchmarks.rows import Rows, text
from benchmarks.table import RESULTS, latest

logger = logging.getLogger(__name__)

#: In the order of the table.
BENCHMARKS: Mapping[str, Callable[[], Rows]] = {
    "against_stock": against_stock.run,
    "claim_cost": claim_cost.run,
    "failover": failover.run,
    "storm": storm.run,
    "redis_restart": redis_restart.run,
    "affinity": affinity.run,
    "fleet": fleet.run,
    "realtime": realtime.run,
    "gate_races": gate_races.run,
    "rest": rest.run,
    "idle": idle.run,
}


def main(names: Sequence[str]) -> int:
    """Run, print, write; the exit status: 1 when one failed, 2 when there is none of that name."""
    unknown = set(names) - BENCHMARKS.keys()
    if unknown:
        print(f"no benchmark {', '.join(sorted(unknown))}: give some of {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    rows, failed = latest() if names else {}, []
    for name in names or BENCHMARKS:
        print(f"{name} … (load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores)", flush=True)
        try:
            rows |= BENCHMARKS[name]()
        except Exception:
            # The others' figures are worth having.
            logger.exception("%s failed", name)
            failed.append(name)
        RESULTS.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(text(rows))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
