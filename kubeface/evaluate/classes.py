"""Evaluate one class of many: the fine-tuned model beside its features before and a small network from scratch."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kubeface.evaluate.class_figures import Weighted, class_figures, refusal_figures, refusal_threshold
from kubeface.evaluate.contestants import load_models, told_of
from kubeface.evaluate.gate import decide, require_target
from kubeface.evaluate.heldout import Heldout, refuse_known_people
from kubeface.evaluate.options import EvaluateClassesOptions
from kubeface.evaluate.pictures import SAMPLES, write_samples
from kubeface.evaluate.record import record
from kubeface.evaluate.scored import (
    GRID,
    MISTAKES,
    Scored,
    evenly,
    score_crops,
    write_predictions,
    write_shown,
)
from kubeface.faces.degradation import Degradation
from kubeface.metrics.intervals import spread, tell_gains
from kubeface.metrics.verification import Ints
from kubeface.models.onnx_model import OnnxModel
from kubeface.records.gate import METRICS
from kubeface.records.model import ModelRecord
from kubeface.records.record import StepResult
from kubeface.records.tasks import CLASSES
from kubeface.runtime.errors import require
from kubeface.storage.folders import new_folder, read_json, write_json
from kubeface.tables.labels import read_people
from kubeface.tables.table import Table

GAINED = METRICS[CLASSES]
# One row for each image, set and model; y is the image's class, whether the model knows it or not.
PREDICTIONS = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("image_id", "source", "identity", "set", "model", "y", "predicted")),
        pa.field("refused", pa.bool_()),
        pa.field("score", pa.float32()),
    ]
)


class EvaluateClassesResult(StepResult):
    """What was measured: held-out images in, those of known classes out, and the main figures of the target set."""

    identities: int
    """Known classes."""
    baseline_accuracy: float
    """Of the starting model."""
    baseline_macro_f1: float
    """Of the starting model."""
    baseline_balanced_accuracy: float
    """Of the starting model."""
    finetuned_accuracy: float
    """Of the fine-tuned model."""
    finetuned_macro_f1: float
    """Of the fine-tuned model."""
    finetuned_balanced_accuracy: float
    """Of the fine-tuned model."""
    scratch_accuracy: float | None = None
    """Of the model trained from scratch."""
    scratch_macro_f1: float | None = None
    """Of the model trained from scratch."""
    scratch_balanced_accuracy: float | None = None
    """Of the model trained from scratch."""
    champion_accuracy: float | None = None
    """Of the promoted model."""
    champion_macro_f1: float | None = None
    """Of the promoted model."""
    champion_balanced_accuracy: float | None = None
    """Of the promoted model."""


def evaluate_classes(
    aligned: Path,
    split: Path,
    model: Path,
    out: Path,
    options: EvaluateClassesOptions = EvaluateClassesOptions(),
    champion: str = "",
    scratch: Path | None = None,
) -> EvaluateClassesResult:
    """Compares a classifier with its starting model's features, and one from scratch, on held-out images.

    The starting model has the head that was trained on its frozen features (stage 1). Held-out images of classes that
    nobody was trained on are the unknown: they count for the refusal alone. The score under which an image is refused
    is chosen on validation images, for each model on its own. Sets: `heldout` with the degradation on every crop,
    `heldout_clean` without it where there is one. Leaves evaluation.json (`ClassesEvaluation`), threshold.json,
    predictions.parquet, grid/*.png, mistakes/*.png and samples/*.png.

    Args:
        aligned: Aligned table.
        split: Split table; heldout images are measured on, the threshold chosen on val.
        model: Model folder of finetune, task classes.
        out: Folder to write the evaluation to.
        options: What is measured, and when the model is better.
        champion: Folder of the promoted model (path or s3://), to compare with too; empty for none.
        scratch: Model folder of a training from scratch on the same split, to compare with too; none by default.

    Raises:
        KubefaceError: an unknown degradation, corrupt tables or model, a split that the model was not trained with, or
            no held-out image of a known class.
    """
    rule, bad = options.gate, Degradation.parse(options.degradation)
    sets = {"heldout": bad, "heldout_clean": Degradation()} if bad else {"heldout": bad}
    require_target(rule, list(sets))
    table, divided = Table(aligned, "aligned"), Table(split, "split")
    models = load_models(model, champion, table, options.device, CLASSES, scratch)
    names = models["finetuned"].labels
    for folder in (model, *([scratch] if scratch else [])):
        _require_split(folder, divided)
    refuse_known_people(table, divided)
    train, validated, heldout = _parts(divided)
    leaked = sorted(heldout.keys() & (train.keys() | validated.keys()))
    require(
        not leaked,
        f"{divided.folder} has {len(leaked)} images both held out and not, {leaked[0] if leaked else ''} first: run "
        "split again",
    )
    require(
        bool(set(heldout.values()) & set(names)),
        f"{divided.folder} holds out no image of a class that {model} knows: raise heldout_fraction",
    )
    validated = {image_id: name for image_id, name in validated.items() if name in names}
    with new_folder(out) as folder:
        seen = score_crops(table, validated, models, {"val": bad}).scores["val"]
        thresholds = {which: refusal_threshold(scores, options.refuse) for which, scores in seen.items()}
        found = score_crops(table, heldout, models, sets)
        place = {name: number for number, name in enumerate(names)}
        truth = np.array([place.get(name, -1) for name in found.identities], np.int64)
        known = truth >= 0
        people = dict(zip(table.columns(["image_id"])["image_id"].to_pylist(), read_people(table), strict=True))
        units = np.unique([people[i] or i for i in np.array(found.ids)[known].tolist()], return_inverse=True)[1]
        settings = {"bootstrap": options.bootstrap, "seed": options.seed, "refuse": options.refuse}
        evaluation = record(table, divided, bad, rule, settings, models) | {
            "task": CLASSES,
            "people": len(names),
            "images": int(known.sum()),
            "labels": list(names),
            "models": _told_of(model, models, champion),
            "chosen_on": {"split": "val", "images": len(validated)},
            "sampling": read_json(model / "sampling.json"),
        }
        for name in sets:
            _tell(evaluation, name, found, truth, thresholds, units)
        evaluation["gate"] = decide(evaluation, rule)
        evaluation["grid"] = _grid(found, truth, names, thresholds["finetuned"], options.seed)
        evaluation["mistakes"] = _mistakes(found, truth, names, thresholds["finetuned"])
        write_json(folder / "evaluation.json", evaluation)
        write_json(
            folder / "threshold.json",
            {
                "weights_sha256": models["finetuned"].weights_sha256,
                "onnx_sha256": models["finetuned"].sha256,  # which the head is part of
                "task": CLASSES,
                "unknown": evaluation["finetuned"]["heldout"]["unknown"],
                "refuse": options.refuse,
                "degradation": str(bad),
                "chosen_on": evaluation["chosen_on"],
            },
        )
        write_predictions(folder / "predictions.parquet", PREDICTIONS, _predictions(found, names, thresholds))
        write_shown(folder, table, {"grid": evaluation["grid"], "mistakes": evaluation["mistakes"]}, bad)
        write_samples(folder, Heldout(table, {}), found.ids[:SAMPLES], bad)
    print(f"evaluate: {evaluation['gate']['reason']}", flush=True)
    main = {f"{which}_{key}": evaluation[which]["heldout"][key] for which in models for key in GAINED}
    return EvaluateClassesResult(rows_in=len(found), rows_out=int(known.sum()), identities=len(names), **main)


def _require_split(folder: Path, divided: Table) -> None:
    """Raises KubefaceError where a model was trained with another split, by which it may know held-out images.

    A promoted model that was handed on stays in force whatever is measured.
    """
    record = ModelRecord.read(folder / "model.json")
    require(
        not record.trained or record.training.split == divided.sha256,
        f"{folder} was trained with another split than {divided.folder}, which may hold images back that it knows: "
        "evaluate with the split that it was trained with",
    )


def _parts(divided: Table) -> list[dict[str, str]]:
    """Class by image id of the images trained on, validated on and held out."""
    rows = divided.columns(["image_id", "identity", "split"]).to_pylist()
    return [
        {row["image_id"]: row["identity"] for row in rows if row["split"] == part}
        for part in ("train", "val", "heldout")
    ]


def _told_of(model: Path, models: Mapping[str, OnnxModel], champion: str) -> dict[str, Any]:
    """What is compared; nothing tells which images the promoted model was trained on."""
    told = told_of(model, models, champion, {})
    told.get("champion", {}).pop("heldout_people_trained_on", None)
    return told


def _tell(
    evaluation: dict[str, Any],
    name: str,
    found: Scored,
    truth: Ints,
    thresholds: Mapping[str, float | None],
    units: Ints,
) -> None:
    """Adds a set's figures by model, and the gains."""
    known, settings = truth >= 0, evaluation["settings"]
    spreads = {}
    for which, scores in found.scores[name].items():
        threshold = thresholds[which]
        unknown = None if threshold is None else refusal_figures(threshold, truth[known], scores[known], scores[~known])
        evaluation[which][name] = class_figures(truth[known], scores[known], evaluation["labels"]) | {
            "unknown": unknown
        }
        weighted = Weighted(truth[known], scores[known])
        spreads[which] = spread(weighted.figures, units, settings["bootstrap"], settings["seed"])
    tell_gains(evaluation, name, spreads, GAINED, settings["gate"]["confidence"])


def _grid(found: Scored, truth: Ints, names: Sequence[str], threshold: float | None, seed: int) -> list[dict[str, Any]]:
    """Some images with their class and the one that is predicted of them; none where it is refused."""
    scores = found.scores["heldout"]["finetuned"]
    chosen = []
    for number, place in enumerate(evenly(found.ids, GRID, seed)):
        refused = _refused(float(scores[place].max()), threshold)
        predicted = int(scores[place].argmax())
        chosen.append(
            {
                "file": f"grid/{number:03d}.png",
                "image_id": found.ids[place],
                "source": found.sources[place],
                "true": [found.identities[place]],
                "predicted": [] if refused else [names[predicted]],
                "right": refused if truth[place] < 0 else not refused and predicted == int(truth[place]),
            }
        )
    return chosen


def _mistakes(found: Scored, truth: Ints, names: Sequence[str], threshold: float | None) -> list[dict[str, Any]]:
    """The wrong classes that the model is surest of, unknown images that it does not refuse among them."""
    scores = found.scores["heldout"]["finetuned"]
    best, predicted = scores.max(1), scores.argmax(1)
    accepted = np.array([not _refused(float(score), threshold) for score in best])
    wrong = np.flatnonzero(accepted & (predicted != truth))
    wrong = wrong[np.argsort(-best[wrong], kind="stable")][:MISTAKES]
    return [
        {
            "file": f"mistakes/{number:03d}.png",
            "image_id": found.ids[place],
            "source": found.sources[place],
            "label": None,
            "true": found.identities[place],
            "predicted": names[int(predicted[place])],
            "score": float(best[place]),
        }
        for number, place in enumerate(wrong.tolist())
    ]


def _refused(score: float, threshold: float | None) -> bool:
    return threshold is not None and score < threshold


def _predictions(
    found: Scored, names: Sequence[str], thresholds: Mapping[str, float | None]
) -> Iterator[Mapping[str, Any]]:
    """Columns of predictions.parquet, for each set and model."""
    rows = len(found)
    for name, by_model in found.scores.items():
        for which, scores in by_model.items():
            best = scores.max(1)
            yield {
                "image_id": found.ids,
                "source": found.sources,
                "identity": found.identities,
                "set": [name] * rows,
                "model": [which] * rows,
                "y": found.identities,
                "predicted": [names[place] for place in scores.argmax(1).tolist()],
                "refused": [_refused(float(score), thresholds[which]) for score in best],
                "score": best,
            }
