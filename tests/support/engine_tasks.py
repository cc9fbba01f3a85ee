"""An application's tasks that use the device's engine, as the workers of the tests load them."""

from __future__ import annotations

from celery import shared_task

from gpu_mesh.engines import engine_for
from gpu_mesh.engines.base import Kind
from gpu_mesh.settings import settings


@shared_task(bind=True, queue="ai-batch", remote=True)
def embed_there(self, texts):
    """Embed with the device's own engine; where it was done."""
    engine = engine_for(self.device, settings(), kind=Kind.EMBED)
    found = engine.embed(texts)
    return {"worker": self.request.hostname, "engine": engine.name, "url": engine.url, "count": len(found.vectors)}
