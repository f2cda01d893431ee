"""Evaluation of classes: the fine-tuned model beside its features before, and one trained from scratch."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
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
from kubeface.evaluate.provenance import EvaluationResult, Provenance, main_figures, provenance
from kubeface.evaluate.scored import (
    MISTAKES,
    Scored,
    Scores,
    grid_images,
    measure,
    score_crops,
    threshold_record,
    write_predictions,
    write_shown,
)
from kubeface.faces.degradation import Degradation
from kubeface.metrics.bootstrap import Bootstrap, Spread, spread
from kubeface.metrics.pairs import Bools, Ints
from kubeface.records.evaluation import ClassesEvaluation, ClassesThreshold, EvaluationSettings
from kubeface.records.gate import METRICS
from kubeface.records.labelled_figures import ChosenOn, ClassesFigures, GridImage, Mistake, Sampling
from kubeface.records.model import ModelRecord
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


def evaluate_classes(
    aligned: Path,
    split: Path,
    model: Path,
    out: Path,
    options: EvaluateClassesOptions = EvaluateClassesOptions(),
    champion: str = "",
    scratch: Path | None = None,
) -> EvaluationResult:
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
    refuse_overlap(table, divided)
    validation, heldout = _parts(divided, [model, *([scratch] if scratch else [])], names)
    with new_folder(out) as folder:
        validated = score_crops(table, validation, models, {"val": degradation}).scores["val"]
        thresholds = {which: refusal_threshold(scores, options.refuse) for which, scores in validated.items()}
        found = score_crops(table, heldout, models, sets)
        settings = EvaluationSettings(**options.model_dump(exclude={"degradation", "device"}))
        described = describe_models(model, models, champion, None)
        common = provenance(table, divided, degradation, settings, described)
        sampling, chosen_on = Sampling.read(model / "sampling.json"), ChosenOn(split="val", images=len(validation))
        images = _Classes(table, found, names)
        evaluation = _record(images, thresholds, common, chosen_on=chosen_on, sampling=sampling)
        evaluation.write(folder / "evaluation.json")
        unknown = evaluation.finetuned["heldout"].unknown
        threshold = threshold_record(ClassesThreshold, evaluation, unknown=unknown, refuse=options.refuse)
        threshold.write(folder / "threshold.json")
        write_predictions(folder / "predictions.parquet", PREDICTIONS, found, partial(images.predictions, thresholds))
        write_shown(folder, table, {"grid": evaluation.grid, "mistakes": evaluation.mistakes}, degradation)
        write_samples(folder, Heldout(table, {}), found.ids[:SAMPLES], degradation)
    print(f"evaluate: {evaluation.gate.reason}", flush=True)
    figures = main_figures(evaluation, GAINED)
    return EvaluationResult(rows_in=len(found), rows_out=evaluation.images, identities=len(names), figures=figures)


def _parts(divided: Table, models: Sequence[Path], names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Class by image id of the validation images of known classes, and of all held-out images.

    Raises:
        KubefaceError: a model was trained with another split, by which it may know held-out images, an image is both
            held out and not, or no held-out image is of a known class.
    """
    for model in models:
        require(
            ModelRecord.read(model / "model.json").training.split == divided.sha256,
            f"{model} was trained with another split than {divided.folder}, which may hold images back that it knows: "
            "evaluate with the split that it was trained with",
        )
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
        f"{divided.folder} holds out no image of a class that {models[0]} knows: raise heldout_fraction",
    )
    return {image_id: name for image_id, name in validation.items() if name in names}, heldout


class _Classes:
    """Scored held-out images with the number of their class, −1 for unknown ones."""

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
        scores = self.found.scores["heldout"]["finetuned"]
        refused, predicted = _refused(scores, threshold), scores.argmax(1)
        right = np.where(refused, ~self.known, predicted == self.truth)

        def judge(index: int) -> tuple[list[str], list[str], bool]:
            told = [] if refused[index] else [self.names[int(predicted[index])]]
            return [self.found.identities[index]], told, bool(right[index])

        return grid_images(self.found, seed, judge)

    def mistakes(self, threshold: float | None) -> list[Mistake]:
        """The wrong classes that the model is surest of, unknown images that it does not refuse among them."""
        scores = self.found.scores["heldout"]["finetuned"]
        best, predicted = scores.max(1), scores.argmax(1)
        wrong = np.flatnonzero(~_refused(scores, threshold) & (predicted != self.truth))
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

    def predictions(
        self, thresholds: Mapping[str, float | None], which: str, scores: Scores
    ) -> Iterator[Mapping[str, Any]]:
        """Columns of predictions.parquet."""
        yield {
            "y": self.found.identities,
            "predicted": [self.names[number] for number in scores.argmax(1).tolist()],
            "refused": _refused(scores, thresholds[which]),
            "score": scores.max(1),
        }


def _record(
    images: _Classes,
    thresholds: Mapping[str, float | None],
    common: Provenance,
    *,
    chosen_on: ChosenOn,
    sampling: Sampling,
) -> ClassesEvaluation:
    """evaluation.json out of the scores of the held-out images and each model's refusal threshold."""
    gate, seed = common["settings"].gate, common["settings"].seed
    bootstrap = Bootstrap(common["settings"].bootstrap, seed, gate.confidence)
    measured = measure(
        images.found,
        lambda which, scores: images.figures(scores, thresholds[which], bootstrap),
        GAINED,
        bootstrap,
    )
    known, gain = int(images.known.sum()), measured.gain
    evidence = Evidence(CLASSES, len(images.names), known, gain["baseline"], gain["champion"])
    return ClassesEvaluation(
        **common,
        people=len(images.names),
        images=known,
        labels=list(images.names),
        baseline=measured.figures["baseline"],
        finetuned=measured.figures["finetuned"],
        champion=measured.figures.get("champion", {}),
        scratch=measured.figures.get("scratch", {}),
        gain=gain["baseline"],
        gain_over_champion=gain["champion"],
        gain_over_scratch=gain["scratch"],
        gate=decide(evidence, gate),
        chosen_on=chosen_on,
        sampling=sampling,
        grid=images.grid(thresholds["finetuned"], seed),
        mistakes=images.mistakes(thresholds["finetuned"]),
    )


def _refused(scores: Scores, threshold: float | None) -> Bools:
    """Whether each image is refused (N) by its scores (N×C)."""
    return np.asarray(scores.max(1).astype(np.float64) < (-np.inf if threshold is None else threshold))
