"""PNGs of a super-resolution training: the sample sheet, and the figures by epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

COLUMNS = {"few": "few pixels", "bicubic": "bicubic", "network": "network", "sharp": "sharp"}


def draw_samples(faces: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Faces, a row each: few pixels, bicubic, network, sharp.

    Args:
        faces: images (H×W×3, uint8) by COLUMNS, and `cosines` of the two enlarged ones' embeddings to the sharp one's.
        path: of the PNG.
    """
    figure = Figure(figsize=(6.4, 1.75 * len(faces)), dpi=100, layout="constrained")
    axes = figure.subplots(len(faces), len(COLUMNS), squeeze=False)
    for number, (row, face) in enumerate(zip(axes, faces, strict=True)):
        under = dict(zip(("bicubic", "network"), face["cosines"], strict=True))
        for place, (name, title) in zip(row, COLUMNS.items(), strict=True):
            place.imshow(face[name], interpolation="nearest")
            place.set_xticks([])
            place.set_yticks([])
            if number == 0:
                place.set_title(title, fontsize=9)
            height, width = face[name].shape[:2]
            place.set_xlabel(f"identity {under[name]:.2f}" if name in under else f"{width}×{height}", fontsize=8)
    figure.savefig(path, metadata={"Software": ""})


def draw_history(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """PSNR, SSIM and identity similarity of the validation images by epoch; epoch 0 is bicubic."""
    figure = Figure(figsize=(9, 2.8), dpi=100, layout="constrained")
    epochs = [row["epoch"] for row in history]
    titles = {"psnr": "PSNR, dB", "ssim": "SSIM", "identity": "identity similarity"}
    for place, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        values = [row[name] for row in history]
        place.axhline(values[0], color="tab:gray", linestyle="--", linewidth=1, label="bicubic")
        place.plot(epochs, values, color="tab:blue", marker="o", markersize=3, label="network")
        place.set_title(title, fontsize=9)
        place.set_xlabel("epoch", fontsize=8)
        place.tick_params(labelsize=8)
        place.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, metadata={"Software": ""})
