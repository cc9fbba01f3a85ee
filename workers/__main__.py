"""`python -P -m workers …`: the `celery -A gpu_mesh …` of a supervised process."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from celery.platforms import SecurityWarning

# Loaded before the application's folder is looked in: a module of hers may have the name of one of ours.
import beat_schedule  # noqa: F401
import workers.hooks  # noqa: F401
from gpu_mesh.celery import app

# Celery warns each process of root's rights because a pickle could abuse them; only JSON is accepted here.
warnings.filterwarnings("ignore", category=SecurityWarning)

if __name__ == "__main__":
    # With -P Python leaves it out; an application's modules lie there.
    sys.path.insert(0, str(Path.cwd()))
    app.start(sys.argv[1:])
