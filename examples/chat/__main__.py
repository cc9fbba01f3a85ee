"""`python -m chat [QUESTION]`, with a mesh and an Ollama running: prints the answer as it comes."""

from __future__ import annotations

import sys

import gpu_mesh as mesh
from gpu_mesh.tasks.inference import llm_inference

MANNERS = "You answer customers of a web shop: friendly, in two or three sentences. You promise nothing."
#: The customer waits no longer, s.
PATIENCE_S = 120


def main() -> None:
    """Ask, print what comes, then the figures."""
    mesh.app.set_default()
    question = sys.argv[1] if len(sys.argv) > 1 else "How do I change my password?"
    sent = llm_inference.apply_async([question], {"system": MANNERS}, business="customer", priority=9)
    for piece in mesh.stream(sent, timeout=PATIENCE_S):
        if piece.restart:
            print("\n(one moment: from the beginning)")
        print(piece, end="", flush=True)
    answer = sent.get()
    print(f"\n{answer['output_tokens']} tokens by {answer['model']} on {answer['device']} in {answer['seconds']} s")


if __name__ == "__main__":
    main()
