"""What mypy must refuse of the public surface: `make check` fails where one of these is no error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpu_mesh import Call, Job, Mesh, Piece, submit

if TYPE_CHECKING:
    submit("embeddings", ["a text"], memorygb=3)  # type: ignore[call-arg]
    submit("embeddings", ["a text"], priority="high")  # type: ignore[arg-type]
    submit("embeddings", ["a text"], business="sales")  # type: ignore[arg-type]
    submit("embeddings", ["a text"], preemptible="often")  # type: ignore[arg-type]
    Call("embeddings", ["a text"], labels=["owned"])  # type: ignore[arg-type]
    Mesh().submit("embeddings", countdown="soon")  # type: ignore[arg-type]
    Mesh(broker_url="redis://elsewhere")  # type: ignore[arg-type]
    waits: Job = submit("embeddings", ["a text"], None, priority=3, labels={"trust": "owned"}, preemptible="restart")
    piece: Piece = next(waits.stream())
    missing: int = Mesh().status().nodes[0].name  # type: ignore[assignment]
