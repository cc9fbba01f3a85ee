"""`python -m embeddings [COUNT]`, with a mesh running: embeds notes of customers, and finds those about a matter."""

from __future__ import annotations

import sys
import time
from typing import Any

from gpu_mesh import app
from gpu_mesh.engines.search import top
from gpu_mesh.engines.vectors import decode
from gpu_mesh.tasks.embeddings import embeddings

MATTERS = ("the parcel is late", "the invoice is wrong", "the password is lost", "the lamp arrived broken")
WANTED = "delivery takes too long"


def notes(count: int) -> list[str]:
    """That many notes, no two alike."""
    return [f"Customer {number} writes that {MATTERS[number % len(MATTERS)]}." for number in range(count)]


def show(meta: dict[str, Any]) -> None:
    """Called for each change of the task's state; no polling."""
    if meta["status"] == "PROGRESS":
        print(f"{meta['result']['done']} of {meta['result']['total']}", flush=True)


def main() -> None:
    """Send, show progress, search."""
    app.set_default()
    texts = notes(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
    begun = time.monotonic()
    found = embeddings.delay(texts, encoding="base64").get(timeout=600, on_message=show)
    took_s = time.monotonic() - begun
    print(f"{found['count']} vectors of {found['dimensions']} dimensions by {found['model']} in {took_s:.1f} s")
    # The same model, or the two could not be compared.
    wanted = embeddings.apply_async([[WANTED]], {"model": found["model"]}, business="customer").get(timeout=60)
    vectors = decode(found["vectors"], found["dimensions"])
    for row, similarity in top(wanted["vectors"][0], vectors, 3):
        print(f"{similarity:.2f}  {texts[row]}")


if __name__ == "__main__":
    main()
