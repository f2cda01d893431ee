"""Training curves as PNG files."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def draw_history(history: list[dict[str, Any]], folder: Path) -> None:
    """Writes loss.png and accuracy.png: training and validation by epoch, with a line where stage 2 began."""
    folder.mkdir()
    epochs = [row["epoch"] for row in history]
    second = next((row["epoch"] for row in history if row["stage"] == 2), None)
    for name in ("loss", "accuracy"):
        figure = Figure(figsize=(6, 3.6), dpi=120, layout="constrained")
        axes = figure.subplots()
        axes.plot(epochs, [row[f"train_{name}"] for row in history], "o-", label="training", color="#5b8def")
        axes.plot(epochs, [row[f"val_{name}"] for row in history], "s-", label="validation", color="#e0703c")
        if second is not None and second > epochs[0]:
            axes.axvline(second - 0.5, color="#888888", linestyle="--", linewidth=1, label="stage 2 begins")
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(folder / f"{name}.png", metadata={"Software": ""})
