"""Evaluation of attributes: the fine-tuned model beside its features before, on people it was not tuned on."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kubeface.evaluate.compared_models import describe_models, load_models
from kubeface.evaluate.gate import Evidence, decide, require_target
from kubeface.evaluate.heldout import Heldout, heldout_people, refuse_overlap
from kubeface.evaluate.label_figures import (
    GAINED,
    Truth,
    Weighted,
    choose_thresholds,
    correlation,
    label_figures,
    mean_figures,
    predict,
    too_few,
)
from kubeface.evaluate.options import EvaluateAttributesOptions
from kubeface.evaluate.pictures import SAMPLES, write_samples
from kubeface.evaluate.provenance import provenance
from kubeface.evaluate.scored import (
    GRID,
    MISTAKES,
    Scored,
    Scores,
    draw_images,
    score_crops,
    write_predictions,
    write_shown,
)
from kubeface.faces.degradation import Degradation
from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.figures import Gains
from kubeface.metrics.intervals import Spread, gains, spread
from kubeface.metrics.pairs import Ints
from kubeface.models.onnx_model import OnnxModel
from kubeface.records.evaluation import AttributesEvaluation, AttributesThreshold, EvaluationSettings
from kubeface.records.labelled_figures import (
    AttributesFigures,
    ChosenOn,
    GridImage,
    LabelCorrelation,
    Mistake,
    Sampling,
)
from kubeface.records.record import StepResult
from kubeface.records.tasks import ATTRIBUTES
from kubeface.runtime.errors import require
from kubeface.storage.folders import new_folder
from kubeface.tables.labels import UNKNOWN, read_labels, read_people
from kubeface.tables.table import Table

# One row for each image, set, model and label; y and predicted are null where the label is not known.
PREDICTIONS = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("image_id", "source", "identity", "set", "model", "label")),
        pa.field("y", pa.int8()),
        pa.field("predicted", pa.int8()),
        pa.field("score", pa.float32()),
    ]
)


class EvaluateAttributesResult(StepResult):
    """What was measured: held-out images in, those with a known label out, and the main figures of the target set."""

    identities: int
    """People on the images."""
    labels: int
    """Labels with enough images to measure."""
    baseline_auc: float | None
    """Of the starting model."""
    baseline_average_precision: float | None
    """Of the starting model."""
    baseline_f1: float | None
    """Of the starting model."""
    baseline_accuracy: float | None
    """Of the starting model."""
    baseline_balanced_accuracy: float | None
    """Of the starting model."""
    finetuned_auc: float | None
    """Of the fine-tuned model."""
    finetuned_average_precision: float | None
    """Of the fine-tuned model."""
    finetuned_f1: float | None
    """Of the fine-tuned model."""
    finetuned_accuracy: float | None
    """Of the fine-tuned model."""
    finetuned_balanced_accuracy: float | None
    """Of the fine-tuned model."""
    champion_auc: float | None = None
    """Of the promoted model."""
    champion_average_precision: float | None = None
    """Of the promoted model."""
    champion_f1: float | None = None
    """Of the promoted model."""
    champion_accuracy: float | None = None
    """Of the promoted model."""
    champion_balanced_accuracy: float | None = None
    """Of the promoted model."""


def evaluate_attributes(
    aligned: Path,
    split: Path,
    model: Path,
    out: Path,
    options: EvaluateAttributesOptions = EvaluateAttributesOptions(),
    champion: str = "",
) -> EvaluateAttributesResult:
    """Compares a model of many binary labels with its starting model's features on the images of held-out people.

    The starting model has the head that was trained on its frozen features (stage 1). Thresholds of the labels are
    chosen on validation images alone, for each model on its own. Sets: `heldout` with the degradation on every crop,
    `heldout_clean` without it where there is one. Leaves evaluation.json (`AttributesEvaluation`), threshold.json (the
    fine-tuned model's thresholds), predictions.parquet, grid/*.png, mistakes/*.png and samples/*.png.

    Args:
        aligned: Aligned table with labels among its groups.
        split: Split table; heldout images are measured on, thresholds chosen on val.
        model: Model folder of finetune, task attributes.
        out: Folder to write the evaluation to.
        options: What is measured, and when the model is better.
        champion: Folder of the promoted model (path or s3://), to compare with too; empty for none.

    Raises:
        KubefaceError: an unknown degradation, corrupt tables or model, fewer than two held-out people, one of them was
            trained on, or no label with enough held-out images.
    """
    degradation = Degradation.parse(options.degradation)
    sets = {"heldout": degradation} | ({"heldout_clean": Degradation()} if degradation else {})
    require_target(options.gate, list(sets))
    table, divided = Table(aligned, "aligned"), Table(split, "split")
    heldout = heldout_people(divided, model)
    refuse_overlap(table, divided)
    models = load_models(model, champion, table, options.device, ATTRIBUTES)
    labelled = _Labelled(table, divided, models["finetuned"].labels)
    with new_folder(out) as folder:
        thresholds, chosen_on = _thresholds(labelled, models, degradation)
        found = score_crops(table, labelled.known_of(heldout), models, sets)
        described = describe_models(model, models, champion, heldout)
        settings = EvaluationSettings(gate=options.gate, bootstrap=options.bootstrap, seed=options.seed)
        common = provenance(table, divided, degradation, settings, described) | {
            "chosen_on": chosen_on,
            "sampling": Sampling.read(model / "sampling.json"),
        }
        evaluation = _record(labelled, found, thresholds, options, common)
        evaluation.write(folder / "evaluation.json")
        _threshold(evaluation).write(folder / "threshold.json")
        predictions = _predictions(found, labelled.truth(found.ids), labelled.names, thresholds)
        write_predictions(folder / "predictions.parquet", PREDICTIONS, predictions)
        write_shown(folder, table, {"grid": evaluation.grid, "mistakes": evaluation.mistakes}, degradation)
        write_samples(folder, Heldout(table, {}), found.ids[:SAMPLES], degradation)
    print(f"evaluate: {evaluation.gate.reason}", flush=True)
    target = {which: evaluation.figures_of(which)["heldout"] for which in models}
    return EvaluateAttributesResult(
        rows_in=len(heldout),
        rows_out=len(found),
        identities=evaluation.people,
        labels=target["finetuned"].measured_labels,
        **{f"{which}_{key}": getattr(figures, key) for which, figures in target.items() for key in GAINED},
    )


def _threshold(evaluation: AttributesEvaluation) -> AttributesThreshold:
    """threshold.json of the fine-tuned model."""
    model = evaluation.models["finetuned"]
    return AttributesThreshold(
        weights_sha256=model.weights_sha256,
        onnx_sha256=model.onnx_sha256,  # of the file, which the head is part of
        labels=evaluation.thresholds["finetuned"],
        degradation=evaluation.degradation,
        chosen_on=evaluation.chosen_on,
    )


class _Labelled:
    """The labels and people of a table's images."""

    def __init__(self, table: Table, divided: Table, names: tuple[str, ...]) -> None:
        self.table, self.divided, self.names = table, divided, names
        self._labels = dict(zip(*read_labels(table, names), strict=True))
        self._people = dict(zip(self._labels, read_people(table), strict=True))

    def truth(self, ids: Sequence[str]) -> Truth:
        """The labels of images, N×L."""
        return np.array([self._labels[image_id] for image_id in ids], np.int8).reshape(-1, len(self.names))

    def people(self, found: Scored) -> Ints:
        """A number for each image's person, who may have several identities."""
        names = [self._people[i] or name for i, name in zip(found.ids, found.identities, strict=True)]
        return np.unique(names, return_inverse=True)[1]

    def known_of(self, images: Mapping[str, str]) -> dict[str, str]:
        """Those of some images (identity by id) with a known label.

        Raises:
            KubefaceError: there are none.
        """
        known = {i: name for i, name in images.items() if (self._labels[i] != UNKNOWN).any()}
        require(bool(known), f"{self.divided.folder}: no held-out image has a label that the model knows")
        return known

    def validation(self) -> dict[str, str]:
        """Identity by id of the validation images with a known label."""
        rows = self.divided.columns(["image_id", "identity", "split"]).to_pylist()
        images = {row["image_id"]: row["identity"] for row in rows if row["split"] == "val"}
        return {i: name for i, name in images.items() if (self._labels[i] != UNKNOWN).any()}


def _thresholds(
    labelled: _Labelled, models: Mapping[str, OnnxModel], degradation: Degradation
) -> tuple[dict[str, list[float]], ChosenOn]:
    """The labels' thresholds by model, from validation images under the degradation; and what they were chosen on."""
    seen = score_crops(labelled.table, labelled.validation(), models, {"val": degradation})
    truth = labelled.truth(seen.ids)
    lacking = [name for name, lacks in zip(labelled.names, too_few(truth), strict=True) if lacks]
    chosen_on = ChosenOn(split="val", images=len(seen), too_few=lacking)
    return {which: choose_thresholds(truth, scores) for which, scores in seen.scores["val"].items()}, chosen_on


def _record(
    labelled: _Labelled,
    found: Scored,
    thresholds: Mapping[str, list[float]],
    options: EvaluateAttributesOptions,
    common: Mapping[str, Any],
) -> AttributesEvaluation:
    """evaluation.json out of the scores.

    Args:
        labelled: labels and people of the images.
        found: scores of the held-out images.
        thresholds: of the labels, by model.
        options: of the step.
        common: fields that do not depend on the scores.

    Raises:
        KubefaceError: no label has enough images.
    """
    names, truth, units = labelled.names, labelled.truth(found.ids), labelled.people(found)
    bootstrap = Bootstrap(options.bootstrap, options.seed, options.gate.confidence)
    figures: dict[str, dict[str, AttributesFigures]] = {which: {} for which in thresholds}
    gain: dict[str, dict[str, Gains]] = {"baseline": {}, "champion": {}}
    for name, by_model in found.scores.items():
        spreads: dict[str, Spread] = {}
        for which, scores in by_model.items():
            spreads[which], figures[which][name] = _figures(truth, scores, thresholds[which], names, units, bootstrap)
        for which in spreads.keys() & gain.keys():
            gain[which][name] = gains(spreads[which], spreads["finetuned"], GAINED, bootstrap.confidence)
    require(
        bool(gain["baseline"]["heldout"]),
        f"{labelled.divided.folder}: none of {', '.join(names[:3])}{', …' if len(names) > 3 else ''} has enough "
        "held-out images with and without it to measure on: hold out more people",
    )
    people = int(units.max()) + 1
    evidence = Evidence(ATTRIBUTES, people, len(found), gain["baseline"], gain["champion"])
    scores = found.scores["heldout"]["finetuned"]
    predicted = np.where(truth == UNKNOWN, UNKNOWN, predict(scores, thresholds["finetuned"])).astype(np.int8)
    return AttributesEvaluation(
        **common,
        people=people,
        images=len(found),
        labels=list(names),
        baseline=figures["baseline"],
        finetuned=figures["finetuned"],
        champion=figures.get("champion", {}),
        gain=gain["baseline"],
        gain_over_champion=gain["champion"],
        gate=decide(evidence, options.gate),
        thresholds={which: dict(zip(names, values, strict=True)) for which, values in thresholds.items()},
        correlation=LabelCorrelation(labels=list(names), true=correlation(truth), predicted=correlation(predicted)),
        grid=_grid(found, truth, predicted, names, options.seed),
        mistakes=_mistakes(found, truth, predicted, scores, names),
    )


def _figures(
    truth: Truth,
    scores: Scores,
    thresholds: list[float],
    names: Sequence[str],
    units: Ints,
    bootstrap: Bootstrap,
) -> tuple[Spread, AttributesFigures]:
    """A model's figures on a set, and how they spread over draws of people."""
    lacking = too_few(truth)
    measured = [label for label in range(len(names)) if not lacking[label]]
    spreads = spread(Weighted(truth, scores, thresholds, measured).figures, units, bootstrap)
    bounds = {
        label: spreads.bounds(len(GAINED) + number, bootstrap.confidence) for number, label in enumerate(measured)
    }
    by_label = {
        name: label_figures(truth[:, label], scores[:, label], thresholds[label], bounds.get(label))
        for label, name in enumerate(names)
    }
    return spreads, mean_figures(by_label, len(truth))


def _grid(found: Scored, truth: Truth, predicted: Truth, names: Sequence[str], seed: int) -> list[GridImage]:
    """Some images with the labels that they have and those that are predicted of them."""
    return [
        GridImage(
            file=f"grid/{number:03d}.png",
            image_id=found.ids[index],
            source=found.sources[index],
            true=_names(truth[index], names),
            predicted=_names(predicted[index], names),
            right=_names(truth[index], names) == _names(predicted[index], names),
        )
        for number, index in enumerate(draw_images(found.ids, GRID, seed))
    ]


def _names(row: Truth, names: Sequence[str]) -> list[str]:
    return [name for name, value in zip(names, row, strict=True) if value == 1]


def _mistakes(found: Scored, truth: Truth, predicted: Truth, scores: Scores, names: Sequence[str]) -> list[Mistake]:
    """The wrong labels that the model is surest of, one an image."""
    rows, columns = np.nonzero((truth != UNKNOWN) & (truth != predicted))
    sure = np.where(predicted[rows, columns] == 1, scores[rows, columns], 1 - scores[rows, columns])
    chosen: dict[int, Mistake] = {}
    for index in np.argsort(-sure, kind="stable"):
        row, column = int(rows[index]), int(columns[index])
        if row not in chosen and len(chosen) < MISTAKES:
            chosen[row] = Mistake(
                file=f"mistakes/{len(chosen):03d}.png",
                image_id=found.ids[row],
                source=found.sources[row],
                label=names[column],
                true=int(truth[row, column]),
                predicted=int(predicted[row, column]),
                score=float(scores[row, column]),
            )
    return list(chosen.values())


def _predictions(
    found: Scored, truth: Truth, names: Sequence[str], thresholds: Mapping[str, list[float]]
) -> Iterator[Mapping[str, Any]]:
    """Columns of predictions.parquet, for each set, model and label."""
    rows = len(found)
    for name, by_model in found.scores.items():
        for which, scores in by_model.items():
            for column, label in enumerate(names):
                unknown = truth[:, column] == UNKNOWN
                yield {
                    "image_id": found.ids,
                    "source": found.sources,
                    "identity": found.identities,
                    "set": [name] * rows,
                    "model": [which] * rows,
                    "label": [label] * rows,
                    "y": pa.array(truth[:, column], pa.int8(), mask=unknown),
                    "predicted": predict(scores[:, column], thresholds[which][column]),
                    "score": scores[:, column],
                }
