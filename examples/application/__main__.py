"""`python -m application [QUESTION]`, with a mesh running: has a question answered, and finds the known one nearest."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

from gpu_mesh import Call, Job, Mesh, MeshError, submit, submit_many

KNOWN = ("How do I pay an invoice?", "How do I change my password?", "Where is my parcel?")
#: A customer waits no longer, s.
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Answer:
    """To a customer."""

    text: str
    nearest: str


def nearest(question: str, vectors: list[list[float]], own: list[float]) -> str:
    """Of the known questions the one most like it; vectors are of unit length."""
    alike = [sum(a * b for a, b in zip(vector, own, strict=True)) for vector in vectors]
    return KNOWN[alike.index(max(alike))]


async def answer(question: str) -> Answer:
    """What is known and what the model says, side by side; the event loop goes on meanwhile."""
    asked: Job = await asyncio.to_thread(
        submit, "llm_inference", question, business="customer", priority=8, expires=PATIENCE_S
    )
    embedded = await asyncio.to_thread(
        submit_many, [Call("embeddings", [text], business="customer") for text in (*KNOWN, question)]
    )
    found = await asyncio.gather(*(job.aresult(PATIENCE_S) for job in embedded))
    *vectors, own = [one["vectors"][0] for one in found]
    said = await asked.aresult(timeout=PATIENCE_S)
    return Answer(str(said["text"]), nearest(question, vectors, own))


def main() -> int:
    """Ask, and say what the mesh looks like."""
    question = sys.argv[1] if len(sys.argv) > 1 else "I forgot my password, what now?"
    try:
        found = asyncio.run(answer(question))
        print(f"{found.text}\n(nearest to {found.nearest})")
        with Mesh() as mesh:
            for node in mesh.nodes():
                print(f"{node.name}: {len(node.devices)} device(s), {node.status}")
    except (MeshError, TimeoutError) as exc:
        print(f"sorry: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
