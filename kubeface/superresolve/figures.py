"""PNGs of a super-resolution training: the sample sheet, and the figures by epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from kubeface.faces.images import RGB
from kubeface.records.superresolution import EnlargementFigures


@dataclass(frozen=True, slots=True)
class SampleFace:
    """A row of the sample sheet."""

    low: RGB  # h×h×3; the others are H×H×3
    bicubic: RGB
    network: RGB
    sharp: RGB
    bicubic_identity: float  # cosine of the embeddings of `bicubic` and `sharp`
    network_identity: float


def draw_samples(faces: Sequence[SampleFace], path: Path) -> None:
    """Draws at least one face, a row each: low resolution, bicubic, network, sharp."""
    titles = ("low resolution", "bicubic", "network", "sharp")
    figure = Figure(figsize=(6.4, 1.75 * len(faces)), dpi=100, layout="constrained")
    rows = figure.subplots(len(faces), len(titles), squeeze=False)
    for number, (axes_of_face, face) in enumerate(zip(rows, faces, strict=True)):
        images = (face.low, face.bicubic, face.network, face.sharp)
        identities = (None, face.bicubic_identity, face.network_identity, None)
        for axes, title, image, identity in zip(axes_of_face, titles, images, identities, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            if number == 0:
                axes.set_title(title, fontsize=9)
            size = f"{image.shape[1]}×{image.shape[0]}"
            axes.set_xlabel(size if identity is None else f"identity {identity:.2f}", fontsize=8)
    figure.savefig(path, metadata={"Software": ""})


def draw_history(history: Sequence[EnlargementFigures], path: Path) -> None:
    """Draws PSNR, SSIM and identity similarity of the validation images by epoch; epoch 0 is bicubic."""
    figure = Figure(figsize=(9, 2.8), dpi=100, layout="constrained")
    titles = {"psnr": "PSNR, dB", "ssim": "SSIM", "identity": "identity similarity"}
    for axes, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        values = [getattr(figures, name) for figures in history]
        axes.axhline(values[0], color="tab:gray", linestyle="--", linewidth=1, label="bicubic")
        axes.plot(range(len(values)), values, color="tab:blue", marker="o", markersize=3, label="network")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, metadata={"Software": ""})
