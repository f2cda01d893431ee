"""Evaluate many labels at once: the fine-tuned model beside its features before, on people it was not tuned on."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kubeface.evaluate.contestants import load_models, told_of
from kubeface.evaluate.gate import decide, require_target
from kubeface.evaluate.heldout import Heldout, heldout_people, refuse_known_people
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
from kubeface.evaluate.record import record
from kubeface.evaluate.scored import (
    GRID,
    MISTAKES,
    Scored,
    Scores,
    evenly,
    score_crops,
    write_predictions,
    write_shown,
)
from kubeface.faces.degradation import Degradation
from kubeface.metrics.intervals import Spread, spread, tell_gains
from kubeface.metrics.verification import Ints
from kubeface.models.onnx_model import OnnxModel
from kubeface.records.record import StepResult
from kubeface.records.tasks import ATTRIBUTES
from kubeface.runtime.errors import require
from kubeface.storage.folders import new_folder, read_json, write_json
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
    rule, bad = options.gate, Degradation.parse(options.degradation)
    sets = {"heldout": bad, "heldout_clean": Degradation()} if bad else {"heldout": bad}
    require_target(rule, list(sets))
    table, divided = Table(aligned, "aligned"), Table(split, "split")
    heldout = heldout_people(divided, model)
    refuse_known_people(table, divided)
    models = load_models(model, champion, table, options.device, ATTRIBUTES)
    names = models["finetuned"].labels
    labels = dict(zip(*read_labels(table, names), strict=True))
    people = dict(zip(labels, read_people(table), strict=True))
    known = {i: name for i, name in heldout.items() if (labels[i] != UNKNOWN).any()}
    require(bool(known), f"{divided.folder}: no held-out image has a label that the model knows")
    rows = divided.columns(["image_id", "identity", "split"]).to_pylist()
    validation = {
        row["image_id"]: row["identity"]
        for row in rows
        if row["split"] == "val" and (labels[row["image_id"]] != UNKNOWN).any()
    }
    with new_folder(out) as folder:
        thresholds, chosen_on = _thresholds(table, validation, models, bad, labels)
        found = score_crops(table, known, models, sets)
        truth = np.stack([labels[image_id] for image_id in found.ids])
        settings = {"bootstrap": options.bootstrap, "seed": options.seed}
        shown = [people[image_id] or name for image_id, name in zip(found.ids, found.identities, strict=True)]
        units = np.unique(shown, return_inverse=True)[1]
        evaluation = record(table, divided, bad, rule, settings, models) | {
            "task": ATTRIBUTES,
            "people": int(units.max()) + 1,
            "images": len(found),
            "labels": list(names),
            "models": told_of(model, models, champion, heldout),
            "thresholds": {which: dict(zip(names, values, strict=True)) for which, values in thresholds.items()},
            "chosen_on": chosen_on,
            "sampling": read_json(model / "sampling.json"),
        }
        for name in sets:
            _tell(evaluation, name, found, truth, thresholds, units)
        require(
            bool(evaluation["gain"]["heldout"]),
            f"{divided.folder}: none of {', '.join(names[:3])}{', …' if len(names) > 3 else ''} has enough held-out "
            "images with and without it to measure on: hold out more people",
        )
        evaluation["gate"] = decide(evaluation, rule)
        scores = found.scores["heldout"]["finetuned"]
        predicted = np.where(truth == UNKNOWN, UNKNOWN, predict(scores, thresholds["finetuned"])).astype(np.int8)
        evaluation["correlation"] = {
            "labels": list(names),
            "true": correlation(truth),
            "predicted": correlation(predicted),
        }
        evaluation["grid"] = _grid(found, truth, predicted, names, options.seed)
        evaluation["mistakes"] = _mistakes(found, truth, predicted, scores, names)
        write_json(folder / "evaluation.json", evaluation)
        write_json(
            folder / "threshold.json",
            {
                "weights_sha256": models["finetuned"].weights_sha256,
                "onnx_sha256": models["finetuned"].sha256,  # which the head is part of
                "task": ATTRIBUTES,
                "labels": evaluation["thresholds"]["finetuned"],
                "degradation": str(bad),
                "chosen_on": chosen_on,
            },
        )
        write_predictions(folder / "predictions.parquet", PREDICTIONS, _predictions(found, truth, names, thresholds))
        write_shown(folder, table, {"grid": evaluation["grid"], "mistakes": evaluation["mistakes"]}, bad)
        write_samples(folder, Heldout(table, {}), found.ids[:SAMPLES], bad)
    print(f"evaluate: {evaluation['gate']['reason']}", flush=True)
    main = {f"{which}_{key}": evaluation[which]["heldout"][key] for which in models for key in GAINED}
    return EvaluateAttributesResult(
        rows_in=len(heldout),
        rows_out=len(found),
        identities=evaluation["people"],
        labels=evaluation["finetuned"]["heldout"]["measured_labels"],
        **main,
    )


def _thresholds(
    table: Table,
    validation: Mapping[str, str],
    models: Mapping[str, OnnxModel],
    degradation: Degradation,
    labels: Mapping[str, Truth],
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """The labels' thresholds by model, from validation images under the degradation; and what they were chosen on."""
    names = models["finetuned"].labels
    seen = score_crops(table, validation, models, {"val": degradation})
    truth = np.array([labels[image_id] for image_id in seen.ids], np.int8).reshape(-1, len(names))
    few = [name for name, lacking in zip(names, too_few(truth), strict=True) if lacking]
    chosen_on = {"split": "val", "images": len(seen), "too_few": few}
    return {which: choose_thresholds(truth, scores) for which, scores in seen.scores["val"].items()}, chosen_on


def _tell(
    evaluation: dict[str, Any],
    name: str,
    found: Scored,
    truth: Truth,
    thresholds: Mapping[str, list[float]],
    units: Ints,
) -> None:
    """Adds a set's figures by model, with the labels' intervals, and the gains."""
    names, settings = evaluation["labels"], evaluation["settings"]
    confidence = settings["gate"]["confidence"]
    spreads: dict[str, Spread] = {}
    for which, scores in found.scores[name].items():
        by_label = {
            label: label_figures(truth[:, place], scores[:, place], thresholds[which][place])
            for place, label in enumerate(names)
        }
        measured = [place for place, entry in enumerate(by_label.values()) if not entry["too_few"]]
        weighted = Weighted(truth, scores, thresholds[which], measured)
        spreads[which] = spread(weighted.figures, units, settings["bootstrap"], settings["seed"])
        bounds = {
            names[place]: spreads[which].bounds(len(GAINED) + number, confidence)
            for number, place in enumerate(measured)
        }
        for label, entry in by_label.items():
            entry["auc_low"], entry["auc_high"] = bounds.get(label) or (None, None)
        evaluation[which][name] = mean_figures(by_label) | {"images": len(found)}
    tell_gains(evaluation, name, spreads, GAINED, confidence)


def _grid(found: Scored, truth: Truth, predicted: Truth, names: tuple[str, ...], seed: int) -> list[dict[str, Any]]:
    """Some images with the labels that they have and those that are predicted of them."""
    chosen = []
    for number, place in enumerate(evenly(found.ids, GRID, seed)):
        true, told = (
            [name for name, value in zip(names, row[place], strict=True) if value == 1] for row in (truth, predicted)
        )
        chosen.append(
            {
                "file": f"grid/{number:03d}.png",
                "image_id": found.ids[place],
                "source": found.sources[place],
                "true": true,
                "predicted": told,
                "right": true == told,
            }
        )
    return chosen


def _names(row: Truth, names: tuple[str, ...]) -> list[str]:
    return [name for name, value in zip(names, row, strict=True) if value == 1]


def _mistakes(
    found: Scored, truth: Truth, predicted: Truth, scores: Scores, names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The wrong labels that the model is surest of, one an image."""
    rows, columns = np.nonzero((truth != UNKNOWN) & (truth != predicted))
    sure = np.where(predicted[rows, columns] == 1, scores[rows, columns], 1 - scores[rows, columns])
    chosen: dict[int, dict[str, Any]] = {}
    for place in np.argsort(-sure, kind="stable"):
        row, column = int(rows[place]), int(columns[place])
        if row not in chosen and len(chosen) < MISTAKES:
            chosen[row] = {
                "file": f"mistakes/{len(chosen):03d}.png",
                "image_id": found.ids[row],
                "source": found.sources[row],
                "label": names[column],
                "true": int(truth[row, column]),
                "predicted": int(predicted[row, column]),
                "score": float(scores[row, column]),
            }
    return list(chosen.values())


def _predictions(
    found: Scored, truth: Truth, names: tuple[str, ...], thresholds: Mapping[str, list[float]]
) -> Iterator[Mapping[str, Any]]:
    """Columns of predictions.parquet, for each set, model and label."""
    rows = len(found)
    for name, by_model in found.scores.items():
        for which, scores in by_model.items():
            for place, label in enumerate(names):
                unknown = truth[:, place] == UNKNOWN
                yield {
                    "image_id": found.ids,
                    "source": found.sources,
                    "identity": found.identities,
                    "set": [name] * rows,
                    "model": [which] * rows,
                    "label": [label] * rows,
                    "y": pa.array(truth[:, place], pa.int8(), mask=unknown),
                    "predicted": predict(scores[:, place], thresholds[which][place]),
                    "score": scores[:, place],
                }
