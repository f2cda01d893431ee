"""Evaluate: the fine-tuned model beside the one it started from and the promoted one, on people it was not tuned on."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kubeface.evaluate.compared_models import describe_models, load_models
from kubeface.evaluate.gate import Evidence, decide
from kubeface.evaluate.lfw import evaluate_lfw
from kubeface.evaluate.measurement import (
    Inputs,
    Measured,
    calibrate_models,
    compare_galleries,
    count_all_pairs,
    describe_lfw,
    errors_by_group,
    identify_models,
    measure,
    measure_resolutions,
    read_inputs,
)
from kubeface.evaluate.options import EvaluateOptions, LfwOptions
from kubeface.evaluate.pair_sets import PairSet, largest_falls
from kubeface.evaluate.pictures import (
    SAMPLES,
    write_benchmark_pictures,
    write_pictures,
    write_samples,
    write_sizes,
)
from kubeface.evaluate.probes import probe
from kubeface.evaluate.provenance import EvaluationResult, main_figures, provenance
from kubeface.evaluate.resolutions import CROSS
from kubeface.faces.degradation import Degradation
from kubeface.metrics.figures import ThresholdRow, VerificationFigures
from kubeface.models.embeddings import Model
from kubeface.models.onnx_model import CONFIG_FILE, OnnxModel, open_model
from kubeface.models.superresolution import BICUBIC, open_enlarger
from kubeface.records.evaluation import ComparedModel, RecognitionEvaluation, RecognitionThreshold
from kubeface.records.recognition_figures import Resolutions
from kubeface.records.record import StepResult
from kubeface.records.tasks import RECOGNITION
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.processors import cpu_limit
from kubeface.storage import objects
from kubeface.storage.folders import new_folder, write_json


def evaluate(
    aligned: Path,
    split: Path,
    model: Path,
    out: Path,
    options: EvaluateOptions = EvaluateOptions(),
    champion: str = "",
) -> EvaluationResult:
    """Compares the fine-tuned model with its starting model, and the promoted one, on held-out people and benchmarks.

    Sets: `heldout` with the degradation on every crop (the target domain), `heldout_clean` without it where there is
    one, `pairs` (own pairs), `lfw`, and the .bin sets by name. Where the degradation is lowres, or the table has the
    low and the high image of the same photographs, there is also `heldout_cross`, low-resolution against sharp images,
    and `resolutions` has figures by size; of such pairs `heldout` has the low images as they are, `heldout_clean` the
    high ones. Every figure is measured with and without flip test-time augmentation. Leaves evaluation.json
    (`RecognitionEvaluation`), threshold.json (the calibrated threshold of the fine-tuned model), roc.json,
    thresholds.csv, scores.parquet, pairs/*.png (hardest and forgotten pairs) and samples/*.png; of low resolution also
    scores_cross.parquet and sizes/<size>/*.png.

    Args:
        aligned: Aligned table.
        split: Split table; its heldout images are used.
        model: Model folder of finetune.
        out: Folder to write the evaluation to.
        options: What is measured, and when the model is better.
        champion: Folder of the promoted model (path or s3://), to compare with too; empty for none.

    Raises:
        KubefaceError: corrupt tables or model, an unknown degradation or set, fewer than two held-out people, or one of
            them was trained on.
    """
    inputs = read_inputs(options, aligned, split, model)
    models = load_models(model, champion, inputs.table, options.device)
    with new_folder(out) as folder:
        measured = measure(inputs, models)
        described = describe_models(model, models, champion, inputs.photographs.people)
        resolutions, shown = measure_resolutions(inputs, models, measured)
        evaluation = _record(inputs, models, measured, described, resolutions)
        evaluation.write(folder / "evaluation.json")
        _write_tables(folder, evaluation, measured)
        hardest = [pairs for pairs in (evaluation.hardest, evaluation.hardest_cross) if pairs]
        write_pictures(folder, inputs.photographs, hardest, evaluation.forgotten, inputs.degradation)
        bins, template = options.bin_sets_by_name(), models["finetuned"].template
        write_benchmark_pictures(folder, evaluation.forgotten, options.lfw_archive, inputs.detector, template, bins)
        write_samples(folder, inputs.photographs, measured.crops.ids[:SAMPLES], inputs.degradation)
        write_sizes(folder, inputs.photographs, shown, inputs.enlarger)
    print(f"evaluate: {evaluation.gate.reason}", flush=True)
    return EvaluationResult(
        rows_in=evaluation.images,
        rows_out=evaluation.pairs,
        identities=evaluation.people,
        figures=main_figures(evaluation, ("accuracy", "auc", "eer")),
    )


def _record(
    inputs: Inputs,
    models: Mapping[str, OnnxModel],
    measured: Measured,
    described: Mapping[str, ComparedModel],
    resolutions: Resolutions | None,
) -> RecognitionEvaluation:
    """evaluation.json out of what was measured."""
    sets, far, people = measured.sets, measured.far, int(measured.crops.people.max()) + 1
    gain, over_champion = (
        {entry.name: entry.gain(before, far, inputs.bootstrap) for entry in sets} if before in models else {}
        for before in ("baseline", "champion")
    )
    calibration = calibrate_models(inputs, measured.target)
    groups = errors_by_group(inputs, measured, calibration)
    evidence = Evidence(RECOGNITION, people, len(measured.crops.ids), gain, over_champion, far, groups)
    cross, photographs = measured.cross, inputs.photographs
    on_cross = cross if inputs.options.gate.target == CROSS else None
    return RecognitionEvaluation(
        **provenance(inputs.table, inputs.divided, inputs.degradation, inputs.settings, described),
        people=people,
        images=len(measured.crops.ids),
        pairs=len(measured.compared),
        gate_far=far,
        baseline={entry.name: entry.figures["baseline"] for entry in sets},
        finetuned={entry.name: entry.figures["finetuned"] for entry in sets},
        champion={entry.name: entry.figures["champion"] for entry in sets if "champion" in models},
        gain=gain,
        gain_over_champion=over_champion,
        paired={entry.name: entry.paired() for entry in sets},
        forgotten=largest_falls(pair for entry in sets for pair in entry.forgotten()),
        histograms={entry.name: entry.histograms() for entry in sets},
        calibration=calibrate_models(inputs, on_cross) if on_cross else calibration,
        calibrated_on=on_cross.name if on_cross else None,
        groups=groups,
        identification=identify_models(inputs, measured),
        compatibility=compare_galleries(inputs, measured, calibration),
        all_pairs=count_all_pairs(measured),
        probes=probe(models, photographs.crops, photographs.people, inputs.probes, far, inputs.bootstrap) or None,
        low_resolution=inputs.low_resolution,
        resolutions=resolutions,
        lfw=describe_lfw(inputs, measured.lfw),
        gate=decide(evidence, inputs.options.gate),
        hardest=measured.target.hardest(),
        hardest_cross=cross.hardest() if cross else None,
    )


def _write_tables(folder: Path, evaluation: RecognitionEvaluation, measured: Measured) -> None:
    """threshold.json, roc.json, thresholds.csv, and every pair of held-out people with its scores."""
    RecognitionThreshold(
        **dict(evaluation.calibration["finetuned"]),
        weights_sha256=evaluation.models["finetuned"].weights_sha256,
        degradation=evaluation.degradation,
    ).write(folder / "threshold.json")
    curves = {
        entry.name: {which: points.model_dump() for which, points in entry.roc.items()} for entry in measured.sets
    }
    write_json(folder / "roc.json", curves)
    with open(folder / "thresholds.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["set", "model", *ThresholdRow.model_fields])
        for entry in measured.sets:
            for which, rows in entry.thresholds().items():
                writer.writerows([entry.name, which, *dict(row).values()] for row in rows)
    of_heldout = [entry for entry in measured.sets if entry.pairs is measured.compared]
    _write_scores(folder / "scores.parquet", measured.crops.ids, of_heldout)
    if measured.cross:
        _write_scores(folder / "scores_cross.parquet", measured.cross.images, [measured.cross])


def _write_scores(path: Path, images: Sequence[str], sets: Sequence[PairSet]) -> None:
    """The scores of sets that have the same pairs; `images` are the names of their images."""
    pairs, names = sets[0].pairs, np.array(images)
    columns: dict[str, Any] = {"left": names[pairs.left], "right": names[pairs.right], "same": pairs.same}
    for entry in sets:
        columns |= {f"{entry.name}_{which}": scores.astype(np.float32) for which, scores in entry.scores.items()}
    pq.write_table(pa.table(columns), path, compression="ZSTD")


class LfwResult(VerificationFigures, StepResult):
    """Figures of one model on LFW: images in, pairs out."""

    fallback: list[str]
    """Images without a face, of which a centre crop was taken."""


def lfw(archive: str, pairs: str, options: LfwOptions = LfwOptions()) -> LfwResult:
    """Measures one model on LFW's View 2 (or View 1) and prints the figures.

    Args:
        archive: LFW's images (folder, tar or zip; path, s3:// or https://).
        pairs: LFW's pairs.txt.
        options: Which model, and how its crops are made.

    Raises:
        KubefaceError: something cannot be read, or an image of a pair is missing.
    """
    enlarger = None if options.superresolver == BICUBIC else open_enlarger(options.superresolver, cpu_limit())
    degradation = Degradation.parse(options.degradation, enlarger)
    measured, template = _single(options.backbone, options.model, options.device)
    found = evaluate_lfw(archive, pairs, options.detector, {"model": measured}, degradation, template)
    figures, fallback = found.measured.figures["model"], found.fallback
    listed = f": {', '.join(fallback[:5])}{', …' if len(fallback) > 5 else ''}" if fallback else ""
    count, images = len(found.measured.pairs), len(found.measured.images)
    print(f"pairs scored {count} of {count}, {images} images")
    print(f"images without a face, centre crop used {len(fallback)}{listed}")
    for name, entry in (("accuracy", figures), ("accuracy with flip", figures.flip or figures)):
        print(f"{name} {100 * entry.accuracy:.2f} % ± {100 * entry.accuracy_standard_error:.2f}", flush=True)
    return LfwResult(rows_in=images, rows_out=count, fallback=fallback, **figures.model_dump())


def _single(backbone: str, model: str, device: str) -> tuple[Model, str]:
    """A model to measure by itself, and how its crops are made."""
    if model and not model.startswith("https:") and objects.exists(objects.join(model, CONFIG_FILE)):
        exported = open_model(model, device)
        return exported, exported.template
    try:
        from kubeface.models.model import choose_device, load_pretrained
    except ImportError as error:
        raise KubefaceError(
            f"{model or backbone} is no model folder, and weights that are none need torch ({error}): give --model a "
            "folder of finetune or a promoted version, or measure it where the extra finetune is installed"
        ) from None
    built = load_pretrained(backbone, model, choose_device(device))
    return built, built.template
