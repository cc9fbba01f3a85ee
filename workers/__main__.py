"""`python -m workers …`: the `celery -A gpu_mesh …` of a supervised process."""

from __future__ import annotations

import sys
import warnings

from celery.platforms import SecurityWarning

from gpu_mesh.celery import app

# Celery warns each process of root's rights because a pickle could abuse them; only JSON is accepted here.
warnings.filterwarnings("ignore", category=SecurityWarning)

if __name__ == "__main__":
    app.start(sys.argv[1:])
