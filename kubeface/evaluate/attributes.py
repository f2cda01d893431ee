"""Evaluation of attributes: the fine-tuned model beside its features before, on people it was not tuned on."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
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
from kubeface.metrics.pairs import Ints
from kubeface.models.onnx_model import OnnxModel
from kubeface.records.evaluation import AttributesEvaluation, AttributesThreshold, EvaluationSettings
from kubeface.records.labelled_figures import AttributesFigures, ChosenOn, LabelCorrelation, Mistake, Sampling
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


class EvaluateAttributesResult(EvaluationResult):
    """Held-out images in, those with a known label out."""

    labels: int
    """Labels with enough images to measure."""


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
        known = labelled.known(heldout)
        require(bool(known), f"{divided.folder}: no held-out image has a label that the model knows")
        found = score_crops(table, known, models, sets)
        settings = EvaluationSettings(gate=options.gate, bootstrap=options.bootstrap, seed=options.seed)
        described = describe_models(model, models, champion, heldout)
        common = provenance(table, divided, degradation, settings, described)
        sampling = Sampling.read(model / "sampling.json")
        evaluation = _record(labelled, found, thresholds, common, chosen_on=chosen_on, sampling=sampling)
        evaluation.write(folder / "evaluation.json")
        chosen = evaluation.thresholds["finetuned"]
        threshold_record(AttributesThreshold, evaluation, labels=chosen).write(folder / "threshold.json")
        columns = partial(_predictions, labelled.truth(found.ids), labelled.names, thresholds)
        write_predictions(folder / "predictions.parquet", PREDICTIONS, found, columns)
        write_shown(folder, table, {"grid": evaluation.grid, "mistakes": evaluation.mistakes}, degradation)
        write_samples(folder, Heldout(table, {}), found.ids[:SAMPLES], degradation)
    print(f"evaluate: {evaluation.gate.reason}", flush=True)
    return EvaluateAttributesResult(
        rows_in=len(heldout),
        rows_out=len(found),
        identities=evaluation.people,
        labels=evaluation.finetuned["heldout"].measured_labels,
        figures=main_figures(evaluation, GAINED),
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

    def known(self, images: Mapping[str, str]) -> dict[str, str]:
        """Those of some images (identity by id) with a known label."""
        return {i: name for i, name in images.items() if (self._labels[i] != UNKNOWN).any()}


def _thresholds(
    labelled: _Labelled, models: Mapping[str, OnnxModel], degradation: Degradation
) -> tuple[dict[str, list[float]], ChosenOn]:
    """The labels' thresholds by model, from validation images under the degradation; and what they were chosen on."""
    rows = labelled.divided.columns(["image_id", "identity", "split"]).to_pylist()
    validation = {row["image_id"]: row["identity"] for row in rows if row["split"] == "val"}
    seen = score_crops(labelled.table, labelled.known(validation), models, {"val": degradation})
    truth = labelled.truth(seen.ids)
    lacking = [name for name, lacks in zip(labelled.names, too_few(truth), strict=True) if lacks]
    chosen_on = ChosenOn(split="val", images=len(seen), too_few=lacking)
    return {which: choose_thresholds(truth, scores) for which, scores in seen.scores["val"].items()}, chosen_on


def _record(
    labelled: _Labelled,
    found: Scored,
    thresholds: Mapping[str, list[float]],
    common: Provenance,
    *,
    chosen_on: ChosenOn,
    sampling: Sampling,
) -> AttributesEvaluation:
    """evaluation.json out of the scores of the held-out images.

    Raises:
        KubefaceError: no label has enough images.
    """
    names, truth, units = labelled.names, labelled.truth(found.ids), labelled.people(found)
    gate, seed = common["settings"].gate, common["settings"].seed
    bootstrap = Bootstrap(common["settings"].bootstrap, seed, gate.confidence)

    measured = measure(
        found,
        lambda which, scores: _figures(truth, scores, thresholds[which], names, units, bootstrap),
        GAINED,
        bootstrap,
    )
    gain = measured.gain["baseline"]
    require(
        bool(gain["heldout"]),
        f"{labelled.divided.folder}: none of {', '.join(names[:3])}{', …' if len(names) > 3 else ''} has enough "
        "held-out images with and without it to measure on: hold out more people",
    )
    people = int(units.max()) + 1
    evidence = Evidence(ATTRIBUTES, people, len(found), gain, measured.gain["champion"])
    scores = found.scores["heldout"]["finetuned"]
    predicted = np.where(truth == UNKNOWN, UNKNOWN, predict(scores, thresholds["finetuned"])).astype(np.int8)

    def judge(index: int) -> tuple[list[str], list[str], bool]:
        true, told = ([names[n] for n in np.flatnonzero(row[index] == 1).tolist()] for row in (truth, predicted))
        return true, told, true == told

    return AttributesEvaluation(
        **common,
        people=people,
        images=len(found),
        labels=list(names),
        baseline=measured.figures["baseline"],
        finetuned=measured.figures["finetuned"],
        champion=measured.figures.get("champion", {}),
        gain=gain,
        gain_over_champion=measured.gain["champion"],
        gate=decide(evidence, gate),
        thresholds={which: dict(zip(names, values, strict=True)) for which, values in thresholds.items()},
        chosen_on=chosen_on,
        sampling=sampling,
        correlation=LabelCorrelation(labels=list(names), true=correlation(truth), predicted=correlation(predicted)),
        grid=grid_images(found, seed, judge),
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
    aucs = spreads.draws[:, len(GAINED) :]
    bounds = {label: bootstrap.finite_interval(aucs[:, number]) for number, label in enumerate(measured)}
    by_label = {
        name: label_figures(truth[:, label], scores[:, label], thresholds[label], bounds.get(label))
        for label, name in enumerate(names)
    }
    return spreads, mean_figures(by_label, len(truth))


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
    truth: Truth, names: Sequence[str], thresholds: Mapping[str, list[float]], which: str, scores: Scores
) -> Iterator[Mapping[str, Any]]:
    """Columns of predictions.parquet for each label."""
    for number, label in enumerate(names):
        yield {
            "label": [label] * len(truth),
            "y": pa.array(truth[:, number], pa.int8(), mask=truth[:, number] == UNKNOWN),
            "predicted": predict(scores[:, number], thresholds[which][number]),
            "score": scores[:, number],
        }
