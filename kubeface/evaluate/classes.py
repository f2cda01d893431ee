"""Evaluation of classes: the fine-tuned model beside its features before, and one trained from scratch."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kubeface.evaluate.class_figures import Weighted, class_figures, refusal_figures, refusal_threshold
from kubeface.evaluate.compared_models import describe_models, load_models
from kubeface.evaluate.gate import Evidence, decide, require_target
from kubeface.evaluate.heldout import Heldout, refuse_overlap
from kubeface.evaluate.options import EvaluateClassesOptions
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
from kubeface.records.evaluation import ClassesEvaluation, ClassesThreshold, EvaluationSettings
from kubeface.records.gate import METRICS
from kubeface.records.labelled_figures import ChosenOn, ClassesFigures, GridImage, Mistake, Sampling
from kubeface.records.model import ModelRecord
from kubeface.records.record import StepResult
from kubeface.records.tasks import CLASSES
from kubeface.runtime.errors import require
from kubeface.storage.folders import new_folder
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
    degradation = Degradation.parse(options.degradation)
    sets = {"heldout": degradation} | ({"heldout_clean": Degradation()} if degradation else {})
    require_target(options.gate, list(sets))
    table, divided = Table(aligned, "aligned"), Table(split, "split")
    models = load_models(model, champion, table, options.device, CLASSES, scratch)
    names = models["finetuned"].labels
    for folder in (model, *([scratch] if scratch else [])):
        _require_split(folder, divided)
    refuse_overlap(table, divided)
    validation, heldout = _parts(divided, model, names)
    with new_folder(out) as folder:
        validated = score_crops(table, validation, models, {"val": degradation}).scores["val"]
        thresholds = {which: refusal_threshold(scores, options.refuse) for which, scores in validated.items()}
        found = score_crops(table, heldout, models, sets)
        chosen_on = ChosenOn(split="val", images=len(validation))
        settings = EvaluationSettings(**options.model_dump(exclude={"degradation", "device"}))
        described = describe_models(model, models, champion, None)
        common = provenance(table, divided, degradation, settings, described) | {
            "chosen_on": chosen_on,
            "sampling": Sampling.read(model / "sampling.json"),
        }
        evaluation = _record(_Classes(table, found, names), thresholds, options, common)
        evaluation.write(folder / "evaluation.json")
        _threshold(evaluation).write(folder / "threshold.json")
        write_predictions(folder / "predictions.parquet", PREDICTIONS, _predictions(found, names, thresholds))
        write_shown(folder, table, {"grid": evaluation.grid, "mistakes": evaluation.mistakes}, degradation)
        write_samples(folder, Heldout(table, {}), found.ids[:SAMPLES], degradation)
    print(f"evaluate: {evaluation.gate.reason}", flush=True)
    main = {f"{w}_{key}": getattr(evaluation.figures_of(w)["heldout"], key) for w in models for key in GAINED}
    return EvaluateClassesResult(rows_in=len(found), rows_out=evaluation.images, identities=len(names), **main)


def _threshold(evaluation: ClassesEvaluation) -> ClassesThreshold:
    """threshold.json of the fine-tuned model."""
    model = evaluation.models["finetuned"]
    return ClassesThreshold(
        weights_sha256=model.weights_sha256,
        onnx_sha256=model.onnx_sha256,  # of the file, which the head is part of
        unknown=evaluation.finetuned["heldout"].unknown,
        refuse=evaluation.settings.refuse or 0.0,
        degradation=evaluation.degradation,
        chosen_on=evaluation.chosen_on,
    )


def _require_split(folder: Path, divided: Table) -> None:
    """Raises KubefaceError where a model was trained with another split, by which it may know held-out images."""
    record = ModelRecord.read(folder / "model.json")
    require(
        record.training.split == divided.sha256,
        f"{folder} was trained with another split than {divided.folder}, which may hold images back that it knows: "
        "evaluate with the split that it was trained with",
    )


def _parts(divided: Table, model: Path, names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Class by image id of the validation images of known classes, and of all held-out images.

    Raises:
        KubefaceError: an image is both held out and not, or no held-out image is of a known class.
    """
    rows = divided.columns(["image_id", "identity", "split"]).to_pylist()
    train, validation, heldout = (
        {row["image_id"]: row["identity"] for row in rows if row["split"] == part}
        for part in ("train", "val", "heldout")
    )
    leaked = sorted(heldout.keys() & (train.keys() | validation.keys()))
    require(
        not leaked,
        f"{divided.folder} has {len(leaked)} images both held out and not, {leaked[0] if leaked else ''} first: run "
        "split again",
    )
    require(
        bool(set(heldout.values()) & set(names)),
        f"{divided.folder} holds out no image of a class that {model} knows: raise heldout_fraction",
    )
    return {image_id: name for image_id, name in validation.items() if name in names}, heldout


class _Classes:
    """Scored images with their classes.

    Args:
        table: aligned table.
        found: scores of the held-out images.
        names: of the known classes.
    """

    def __init__(self, table: Table, found: Scored, names: Sequence[str]) -> None:
        self.found, self.names = found, names
        number = {name: index for index, name in enumerate(names)}
        self.truth: Ints = np.array([number.get(name, -1) for name in found.identities], np.int64)
        self.known = self.truth >= 0
        people = dict(zip(table.columns(["image_id"])["image_id"].to_pylist(), read_people(table), strict=True))
        units = [people[i] or i for i in np.array(found.ids)[self.known].tolist()]
        self.units: Ints = np.unique(units, return_inverse=True)[1]

    def figures(self, scores: Scores, threshold: float | None, bootstrap: Bootstrap) -> tuple[Spread, ClassesFigures]:
        """A model's figures on a set, and how they spread over draws of people or images."""
        truth, known = self.truth[self.known], scores[self.known]
        unknown = None if threshold is None else refusal_figures(threshold, truth, known, scores[~self.known])
        spreads = spread(Weighted(truth, known).figures, self.units, bootstrap)
        return spreads, class_figures(truth, known, self.names, unknown)

    def grid(self, threshold: float | None, seed: int) -> list[GridImage]:
        """Some images with their class and the predicted one; none where it is refused."""
        found, scores = self.found, self.found.scores["heldout"]["finetuned"]
        chosen = []
        for number, index in enumerate(draw_images(found.ids, GRID, seed)):
            refused = _refused(float(scores[index].max()), threshold)
            predicted = int(scores[index].argmax())
            is_known = bool(self.known[index])
            chosen.append(
                GridImage(
                    file=f"grid/{number:03d}.png",
                    image_id=found.ids[index],
                    source=found.sources[index],
                    true=[found.identities[index]],
                    predicted=[] if refused else [self.names[predicted]],
                    right=not refused and predicted == int(self.truth[index]) if is_known else refused,
                )
            )
        return chosen

    def mistakes(self, threshold: float | None) -> list[Mistake]:
        """The wrong classes that the model is surest of, unknown images that it does not refuse among them."""
        scores = self.found.scores["heldout"]["finetuned"]
        best, predicted = scores.max(1), scores.argmax(1)
        accepted = np.array([not _refused(float(score), threshold) for score in best])
        wrong = np.flatnonzero(accepted & (predicted != self.truth))
        wrong = wrong[np.argsort(-best[wrong], kind="stable")][:MISTAKES]
        return [
            Mistake(
                file=f"mistakes/{number:03d}.png",
                image_id=self.found.ids[index],
                source=self.found.sources[index],
                label=None,
                true=self.found.identities[index],
                predicted=self.names[int(predicted[index])],
                score=float(best[index]),
            )
            for number, index in enumerate(wrong.tolist())
        ]


def _record(
    images: _Classes,
    thresholds: Mapping[str, float | None],
    options: EvaluateClassesOptions,
    common: Mapping[str, Any],
) -> ClassesEvaluation:
    """evaluation.json out of the scores.

    Args:
        images: the held-out images.
        thresholds: of the refusal, by model.
        options: of the step.
        common: fields that do not depend on the scores.
    """
    bootstrap = Bootstrap(options.bootstrap, options.seed, options.gate.confidence)
    figures: dict[str, dict[str, ClassesFigures]] = {which: {} for which in thresholds}
    gain: dict[str, dict[str, Gains]] = {"baseline": {}, "champion": {}, "scratch": {}}
    for name, by_model in images.found.scores.items():
        spreads: dict[str, Spread] = {}
        for which, scores in by_model.items():
            spreads[which], figures[which][name] = images.figures(scores, thresholds[which], bootstrap)
        for which in spreads.keys() & gain.keys():
            gain[which][name] = gains(spreads[which], spreads["finetuned"], GAINED, bootstrap.confidence)
    known = int(images.known.sum())
    evidence = Evidence(CLASSES, len(images.names), known, gain["baseline"], gain["champion"])
    return ClassesEvaluation(
        **common,
        people=len(images.names),
        images=known,
        labels=list(images.names),
        baseline=figures["baseline"],
        finetuned=figures["finetuned"],
        champion=figures.get("champion", {}),
        scratch=figures.get("scratch", {}),
        gain=gain["baseline"],
        gain_over_champion=gain["champion"],
        gain_over_scratch=gain["scratch"],
        gate=decide(evidence, options.gate),
        grid=images.grid(thresholds["finetuned"], options.seed),
        mistakes=images.mistakes(thresholds["finetuned"]),
    )


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
                "predicted": [names[number] for number in scores.argmax(1).tolist()],
                "refused": [_refused(float(score), thresholds[which]) for score in best],
                "score": best,
            }
