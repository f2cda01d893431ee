"""Scores of images by models of labels or classes, the table of predictions, and pictures of some images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from kubeface.evaluate.heldout import crops_of
from kubeface.faces.degradation import Degradation
from kubeface.faces.images import encode_png
from kubeface.models.onnx_model import OnnxModel
from kubeface.records.labelled_figures import GridImage, Mistake
from kubeface.runtime.errors import require
from kubeface.runtime.keyed_rng import keyed_rng
from kubeface.runtime.progress import Progress
from kubeface.tables.table import Table

Scores = NDArray[np.float32]
GRID, MISTAKES = 32, 24  # pictures of each kind
LARGEST = 224  # pixels of a picture's longer side


@dataclass(frozen=True)
class Scored:
    """Images in stored order, with the scores that each model gives them in each set, N×L.

    The scores stand in the order of the fine-tuned model's labels.
    """

    ids: list[str]
    identities: list[str]
    sources: list[str]
    scores: Mapping[str, Mapping[str, Scores]]

    def __len__(self) -> int:
        return len(self.ids)


def score_crops(
    table: Table, wanted: Mapping[str, str], models: Mapping[str, OnnxModel], sets: Mapping[str, Degradation]
) -> Scored:
    """The wanted images as every model scores them.

    Args:
        table: aligned table; a batch of crops is in memory at a time.
        wanted: identity by image id.
        models: by name, `finetuned` among them.
        sets: what is put on the crops, by set.

    Raises:
        KubefaceError: the table lacks a wanted image.
    """
    order = {which: _indices(model.labels, models["finetuned"].labels) for which, model in models.items()}
    found: dict[str, dict[str, list[Scores]]] = {name: {which: [] for which in models} for name in sets}
    ids: list[str] = []
    with Progress("evaluate", len(wanted)) as progress:
        for batch, crops in crops_of(table, dict(wanted)):
            ids += batch
            for name, degradation in sets.items():
                seen = np.stack([degradation(crop, "probe", i) for crop, i in zip(crops, batch, strict=True)])
                for which, model in models.items():
                    found[name][which].append(model.scores(seen)[:, order[which]])
            progress.advance(len(batch))
    require(len(ids) == len(wanted), f"{table.folder} lacks images that the split names: run split on this table")
    sources = dict(zip(*(table.columns([name])[name].to_pylist() for name in ("image_id", "source")), strict=True))
    width = len(models["finetuned"].labels)
    scores = {
        name: {which: np.concatenate([np.empty((0, width), np.float32), *parts]) for which, parts in by_model.items()}
        for name, by_model in found.items()
    }
    return Scored(ids, [wanted[i] for i in ids], [sources[i] for i in ids], scores)


def _indices(labels: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """The indices of the wanted labels among a model's own."""
    index = {name: number for number, name in enumerate(labels)}
    return [index[name] for name in wanted]


def write_predictions(path: Path, schema: pa.Schema, batches: Iterator[Mapping[str, Any]]) -> None:
    """Writes predictions.parquet, a batch of columns at a time."""
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=True) as file:
        for batch in batches:
            file.write_table(pa.Table.from_pydict(dict(batch), schema))


def draw_images(ids: Sequence[str], limit: int, seed: int) -> list[int]:
    """Indices of up to `limit` images, drawn by the seed, in stored order."""
    drawn = keyed_rng(seed, "grid").choice(len(ids), min(limit, len(ids)), replace=False)
    return sorted(drawn.tolist())


def write_shown(
    folder: Path, table: Table, shown: Mapping[str, Sequence[GridImage | Mistake]], degradation: Degradation
) -> None:
    """Writes the pictures of the record's grid and mistakes as the models saw them."""
    wanted: dict[str, list[str]] = {}
    for name, entries in shown.items():
        (folder / name).mkdir()
        for entry in entries:
            wanted.setdefault(entry.image_id, []).append(entry.file)
    for ids, crops in crops_of(table, dict.fromkeys(wanted, "")):
        for image_id, crop in zip(ids, crops, strict=True):
            picture = Image.fromarray(degradation(crop, "probe", image_id))
            picture.thumbnail((LARGEST, LARGEST))
            for file in wanted[image_id]:
                (folder / file).write_bytes(encode_png(np.asarray(picture)))
