"""Trains a small network to tell two spirals apart, with numpy alone. Run by the mesh as a `training` script.

Arguments: `epochs`, `batch_size`, and optionally `pace_s`, how long an epoch takes at least, s. All that a later run
needs is in one file per checkpoint, whose name the mesh keeps. So an interrupted training ends with the same numbers.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

POINTS, HIDDEN, RATE, MOMENTUM = 400, 32, 0.15, 0.9


def spirals() -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 2) and the spiral, 0 or 1, that each lies on (n, 1)."""
    rng = np.random.default_rng(7)
    turn = np.sqrt(rng.random(POINTS)) * 2 * np.pi
    side = np.arange(POINTS) % 2
    angle = turn + side * np.pi
    points = np.column_stack([np.cos(angle), np.sin(angle)]) * turn[:, None] / (2 * np.pi)
    return points + rng.normal(0, 0.02, points.shape), side[:, None].astype(float)


def fresh() -> dict[str, np.ndarray]:
    """Weights, and for each its momentum."""
    rng = np.random.default_rng(1)
    shapes = {
        "w1": (2, HIDDEN),
        "b1": (HIDDEN,),
        "w2": (HIDDEN, HIDDEN),
        "b2": (HIDDEN,),
        "w3": (HIDDEN, 1),
        "b3": (1,),
    }
    model = {name: rng.normal(0, 1.0, shape) if name[0] == "w" else np.zeros(shape) for name, shape in shapes.items()}
    model["w2"] /= np.sqrt(HIDDEN)
    model["w3"] /= np.sqrt(HIDDEN)
    return {**model, **{f"m_{name}": np.zeros(shape) for name, shape in shapes.items()}}


def forward(model: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both hidden layers (n, HIDDEN), and the probability of spiral 1 (n, 1)."""
    first = np.tanh(3 * x @ model["w1"] + model["b1"])
    second = np.tanh(first @ model["w2"] + model["b2"])
    return first, second, 1 / (1 + np.exp(-(second @ model["w3"] + model["b3"])))


def step(model: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> None:
    """One batch of gradient descent on the cross-entropy."""
    first, second, found = forward(model, x)
    out = (found - y) / len(x)
    back2 = out @ model["w3"].T * (1 - second**2)
    back1 = back2 @ model["w2"].T * (1 - first**2)
    gradients = {"w3": second.T @ out, "b3": out.sum(0), "w2": first.T @ back2, "b2": back2.sum(0)}
    gradients |= {"w1": 3 * x.T @ back1, "b1": back1.sum(0)}
    for name, gradient in gradients.items():
        model[f"m_{name}"] = MOMENTUM * model[f"m_{name}"] - RATE * gradient
        model[name] = model[name] + model[f"m_{name}"]


def tell(kind: str, value: Any) -> None:
    """One line to the mesh."""
    print(json.dumps({kind: value}), flush=True)


def save(folder: Path, epoch: int, began_at: list[int], model: dict[str, np.ndarray]) -> None:
    """The file first, under a name of its own and whole; then the word that it counts."""
    part, file = folder / "part.npz", folder / f"epoch-{epoch}.npz"
    np.savez(part, **model)
    part.rename(file)
    tell("checkpoint", {"epoch": epoch, "began_at": began_at, "file": file.name})
    # The one before is kept: what was told last may not have been heard.
    (folder / f"epoch-{epoch - 2}.npz").unlink(missing_ok=True)


def main() -> None:
    """Train, from the start or from where the run before was."""
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stops.append(number))
    given = json.load(sys.stdin)
    epochs, batch, pace_s = given.get("epochs", 30), given.get("batch_size", 50), given.get("pace_s", 0.0)
    folder = Path(given["checkpoint_dir"])
    restored = given["restored"] or {"epoch": 0, "began_at": [], "file": None}
    model = dict(np.load(folder / restored["file"])) if restored["file"] else fresh()
    began_at = [*restored["began_at"], restored["epoch"]]
    x, y = spirals()
    for epoch in range(restored["epoch"], epochs):
        started = time.monotonic()
        # Seeded by the epoch: it does not matter which run comes to it.
        order = np.random.default_rng([3, epoch]).permutation(POINTS)
        for at in range(0, POINTS, batch):
            step(model, x[order[at : at + batch]], y[order[at : at + batch]])
        save(folder, epoch + 1, began_at, model)
        tell("progress", {"done": epoch + 1, "total": epochs})
        if stops:
            sys.exit(0)  # saved; without a result, so the mesh runs it again
        time.sleep(max(0.0, started + pace_s - time.monotonic()))
    found = forward(model, x)[2]
    loss = float(-np.mean(y * np.log(found + 1e-12) + (1 - y) * np.log(1 - found + 1e-12)))
    accuracy = float(np.mean((found > 0.5) == (y > 0.5)))
    tell("result", {"epochs": epochs, "accuracy": accuracy, "loss": loss, "began_at": began_at})


if __name__ == "__main__":
    main()
