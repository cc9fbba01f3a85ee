"""Who is told of what."""

from typing import Literal

from pydantic import BaseModel

from gpu_mesh.settings.sections.base import setting
from gpu_mesh.settings.types import AlertUrls, File

__all__ = ["AlertSettings"]


class AlertSettings(BaseModel, defer_build=True):
    """Who is told of what."""

    alert_urls: AlertUrls = setting(
        "Where alerts go beside the log, as apprise writes addresses, white space between two; `CRITICAL=URL` for "
        "one that hears only of that level and above. Read by the control worker. See docs/alerts.md",
        default=None,
    )
    alert_urls_file: File = setting("File with more such addresses, lines of `#` being comments", default=None)
    alert_level: Literal["INFO", "WARNING", "ERROR", "CRITICAL"] = setting(
        "From which level on channels hear of an alert; of its end those do that heard of it", default="WARNING"
    )
    alert_backlog: int = setting(
        "How many tasks may wait in a queue without an alert. 0: any number", unit="tasks", default=100, ge=0, le=10**9
    )
    alert_batch_backlog: int = setting(
        "The same for `ai-batch`, in which a night's work may wait", unit="tasks", default=1000, ge=0, le=10**9
    )
    alert_failures: float = setting(
        "Share of the tasks of ten minutes, 20 at least, that may fail without an alert", default=0.05, ge=0, le=1
    )
    alert_gpu_memory: float = setting(
        "Share of a GPU's memory that may be in use without an alert", default=0.9, gt=0, le=1
    )
