"""`python -m training [EPOCHS]`, with a mesh running: trains a small network and shows how far it is."""

from __future__ import annotations

import sys
import time

from gpu_mesh import app

#: So that there is something to see, s per epoch.
PACE_S = 0.2


def main() -> None:
    """Send, show progress, print the result."""
    app.set_default()
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    args = {"pace_s": PACE_S}
    sent = app.send_task("training", ["spirals.py", args], requirements={"epochs": epochs, "batch_size": 50})
    print(f"training as {sent.id}")
    shown = None
    while not sent.ready():
        if sent.state == "PROGRESS" and sent.info != shown:
            shown = sent.info
            print(f"epoch {shown['done']} of {shown['total']}", flush=True)
        time.sleep(0.2)
    print(sent.get())


if __name__ == "__main__":
    main()
