"""What evaluations of attributes and classes share: scores of images, gains, the table of predictions, pictures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from kubeface.evaluate.heldout import crops_of
from kubeface.faces.degradation import Degradation
from kubeface.faces.images import encode_png
from kubeface.metrics.bootstrap import Bootstrap, Spread, gains
from kubeface.metrics.figures import Gains
from kubeface.models.onnx_model import OnnxModel
from kubeface.records.evaluation import (
    AttributesEvaluation,
    AttributesThreshold,
    ClassesEvaluation,
    ClassesThreshold,
)
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
    """The wanted images (identity by id) as every model scores them under each set's degradation.

    A batch of crops is in memory at a time.

    Raises:
        KubefaceError: the table lacks a wanted image.
    """
    labels = models["finetuned"].labels
    order = {which: [model.labels.index(name) for name in labels] for which, model in models.items()}
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
    scores = {
        name: {
            which: np.concatenate([np.empty((0, len(labels)), np.float32), *parts]) for which, parts in by_model.items()
        }
        for name, by_model in found.items()
    }
    return Scored(ids, [wanted[i] for i in ids], [sources[i] for i in ids], scores)


F = TypeVar("F")


@dataclass(frozen=True)
class Measured(Generic[F]):
    """Figures by model and set; gains of the fine-tuned model by the model that it is compared with and set."""

    figures: Mapping[str, dict[str, F]]
    gain: Mapping[str, dict[str, Gains]]


def measure(
    found: Scored, figures_of: Callable[[str, Scores], tuple[Spread, F]], names: Sequence[str], bootstrap: Bootstrap
) -> Measured[F]:
    """Figures of every model on every set, and gains of the named ones.

    Args:
        figures_of: figures of a model's scores of a set, and how they spread over draws of people or images.
    """
    figures: dict[str, dict[str, F]] = {}
    gain: dict[str, dict[str, Gains]] = {"baseline": {}, "champion": {}, "scratch": {}}
    for name, by_model in found.scores.items():
        both = {which: figures_of(which, scores) for which, scores in by_model.items()}
        for which, (spreads, measured) in both.items():
            figures.setdefault(which, {})[name] = measured
            if which in gain:
                gain[which][name] = gains(spreads, both["finetuned"][0], names, bootstrap)
    return Measured(figures, gain)


def write_predictions(
    path: Path, schema: pa.Schema, found: Scored, columns_of: Callable[[str, Scores], Iterable[Mapping[str, Any]]]
) -> None:
    """Writes predictions.parquet: image_id, source, identity, set, model, and the columns of `columns_of`.

    Args:
        columns_of: further columns of a model's scores of a set, a row for each image; several times where each image
            has several rows.
    """
    own = {"image_id": found.ids, "source": found.sources, "identity": found.identities}
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=True) as file:
        for name, by_model in found.scores.items():
            for which, scores in by_model.items():
                both = {"set": [name] * len(found), "model": [which] * len(found)}
                for columns in columns_of(which, scores):
                    file.write_table(pa.Table.from_pydict({**own, **both, **columns}, schema))


Threshold = TypeVar("Threshold", AttributesThreshold, ClassesThreshold)


def threshold_record(
    kind: type[Threshold], evaluation: AttributesEvaluation | ClassesEvaluation, **chosen: Any
) -> Threshold:
    """threshold.json of the fine-tuned model with what was chosen."""
    model = evaluation.models["finetuned"]
    return kind(
        weights_sha256=model.weights_sha256,
        onnx_sha256=model.onnx_sha256,  # of the file, which the head is part of
        degradation=evaluation.degradation,
        chosen_on=evaluation.chosen_on,
        **chosen,
    )


def grid_images(found: Scored, seed: int, judge: Callable[[int], tuple[list[str], list[str], bool]]) -> list[GridImage]:
    """Up to GRID images drawn by the seed, in stored order.

    Args:
        judge: what is true of an image by its index, what is predicted, and whether that is right.
    """
    drawn = keyed_rng(seed, "grid").choice(len(found), min(GRID, len(found)), replace=False)
    images = []
    for number, index in enumerate(sorted(drawn.tolist())):
        true, predicted, right = judge(index)
        shown = {"file": f"grid/{number:03d}.png", "image_id": found.ids[index], "source": found.sources[index]}
        images.append(GridImage(**shown, true=true, predicted=predicted, right=right))
    return images


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
