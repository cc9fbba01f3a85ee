"""`python -m file_count FOLDER`, with a mesh running: counts its words, slowly."""

from __future__ import annotations

import sys
from pathlib import Path

from file_count.tasks import count_words
from gpu_mesh import app


def main() -> None:
    """Send, wait, print."""
    app.set_default()
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    result = count_words.delay(str(folder), pace_s=0.5)
    print(f"counting as {result.id}")
    print(result.get(timeout=600))


if __name__ == "__main__":
    main()
