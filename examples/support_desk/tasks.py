"""The application's own tasks. The mesh's workers load them: GPU_MESH_INCLUDE=support_desk.tasks."""

from __future__ import annotations

from celery import shared_task

from gpu_mesh.engines import get_engine
from gpu_mesh.engines.search import top

ANSWERS = {
    "How do I pay an invoice?": "By bank transfer, within 30 days; the details are on the invoice.",
    "How do I change my password?": "Under Account, Security, Change password.",
    "Where is my parcel?": "Follow the link in the shipping mail.",
    "Can I return an item?": "Within 14 days, unused, with the slip from the box.",
}


@shared_task(queue="customer", memory_gb=0.5)
def answer_customer(question: str) -> dict[str, object]:
    """The known answer nearest in meaning to the question."""
    engine = get_engine()
    known = list(ANSWERS)
    row, similarity = top(engine.embed([question]).vectors[0], engine.embed(known).vectors, 1)[0]
    return {"answer": ANSWERS[known[row]], "because": known[row], "similarity": round(similarity, 3)}


@shared_task(memory_gb=0.5)
def sum_up_deal(notes: str, sentences: int = 2) -> str:
    """The sentences nearest to what the notes are about as a whole, in their order."""
    parts = [part.strip() for part in notes.split(".") if part.strip()]
    vectors = get_engine().embed(parts).vectors
    best = sorted(row for row, _ in top(vectors.mean(axis=0), vectors, sentences))
    return ". ".join(parts[row] for row in best) + "."
