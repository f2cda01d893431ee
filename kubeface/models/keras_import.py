"""A model folder out of a .keras archive, to start a fine-tuning from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from kubeface.models.model import load_pretrained, save_model
from kubeface.records.model import Preprocessing, TrainingRecord
from kubeface.runtime.errors import require
from kubeface.runtime.options import read_options
from kubeface.storage.downloads import fetch, split_checksum
from kubeface.storage.folders import new_folder, sha256_file


def import_keras(
    archive: str,
    *,
    out: Path,
    size: int | None = None,
    color_order: Literal["rgb", "bgr"] | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> None:
    """Makes a model folder, to be given as `pretrained`, out of a .keras archive.

    Args:
        archive: Of a ResNet50 face model, as path, s3:// or https:// address (the latter with #sha256=…).
        out: The model folder, which must not exist yet.
        size: Side of the model's input in pixels; without it the archive's, or 224.
        color_order: Of the model's input; without it bgr, as keras.applications' ResNet50 has it.
        mean: One number or three, subtracted from pixels in 0…255; without it 103.939 116.779 123.68.
        std: One number or three that pixels are divided by then; without it 1.

    Raises:
        KubefaceError: the archive cannot be had or read, or the preprocessing is none.
    """
    path = fetch(archive)
    require(path.suffix == ".keras", f"{archive} is no .keras archive")
    model = load_pretrained("resnet50_keras", str(path))
    given = {"size": size, "color_order": color_order, "mean": _per_channel(mean), "std": _per_channel(std)}
    changes = {name: value for name, value in given.items() if value is not None}
    model.preprocessing = read_options(Preprocessing, model.preprocessing.model_dump() | changes, "preprocessing.")
    model.start = f"{split_checksum(archive)[0]}#sha256={sha256_file(path)}"
    with new_folder(out) as folder:
        save_model(model, folder, TrainingRecord())


def _per_channel(numbers: Sequence[float]) -> float | tuple[float, ...] | None:
    """The numbers as `Preprocessing` has them; None where there are none."""
    return None if not numbers else numbers[0] if len(numbers) == 1 else tuple(numbers)
