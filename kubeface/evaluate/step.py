"""Evaluate: the fine-tuned model beside the one it started from and the promoted one, on people it was not tuned on."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kubeface.evaluate.bin_sets import evaluate_bin, read_bin
from kubeface.evaluate.compatibility import compatibility
from kubeface.evaluate.contestants import load_models, told_of
from kubeface.evaluate.gate import GATE_FAR, decide, require_target
from kubeface.evaluate.groups import group_errors
from kubeface.evaluate.heldout import (
    Heldout,
    HeldoutCrops,
    embed_crops,
    group_columns,
    heldout_photographs,
    refuse_seen,
)
from kubeface.evaluate.lfw import evaluate_lfw, read_pairs
from kubeface.evaluate.options import EvaluateOptions, LfwOptions
from kubeface.evaluate.pair_sets import Bootstrap, PairSet, tell, thresholds
from kubeface.evaluate.pictures import (
    SAMPLES,
    SIZED,
    write_benchmark_pictures,
    write_pictures,
    write_samples,
    write_sizes,
)
from kubeface.evaluate.probes import CLEAN, choose_images, parse_probes, probe, probe_name
from kubeface.evaluate.record import record
from kubeface.evaluate.resolutions import (
    CROSS,
    Fixed,
    cross_set,
    embed_sizes,
    fixed_thresholds,
    measure_sizes,
    sides_of,
    views_as,
)
from kubeface.evaluate.user_pairs import read_user_pairs
from kubeface.faces.degradation import Degradation
from kubeface.metrics.calibration import calibrate, threshold_at, threshold_file
from kubeface.metrics.figures import VerificationFigures
from kubeface.metrics.identification import identification_rates
from kubeface.metrics.mcnemar import largest_falls
from kubeface.metrics.score_counts import count_scores
from kubeface.metrics.verification import Ints, Pairs, all_pairs, supported_fars
from kubeface.models.embeddings import Model
from kubeface.models.onnx_model import CONFIG_FILE, open_model
from kubeface.models.recogniser import model_enlarger
from kubeface.models.superresolution import BICUBIC, Enlarger, open_enlarger
from kubeface.records.model import ModelRecord
from kubeface.records.record import StepResult
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.processors import cpu_limit
from kubeface.storage import objects
from kubeface.storage.folders import new_folder, read_json, write_json
from kubeface.storage.sources import open_source
from kubeface.tables.resolution_pairs import ENLARGED, RESOLUTION
from kubeface.tables.table import Table

HARDEST = 8  # pairs of each kind that are kept as pictures


class EvaluateResult(StepResult):
    """What evaluate measured: images in, pairs out, and the main figures of the target set."""

    identities: int
    """Held-out people."""
    baseline_accuracy: float
    """Of the starting model."""
    baseline_auc: float
    """Of the starting model."""
    baseline_eer: float
    """Of the starting model."""
    finetuned_accuracy: float
    """Of the fine-tuned model."""
    finetuned_auc: float
    """Of the fine-tuned model."""
    finetuned_eer: float
    """Of the fine-tuned model."""
    champion_accuracy: float | None = None
    """Of the promoted model."""
    champion_auc: float | None = None
    """Of the promoted model."""
    champion_eer: float | None = None
    """Of the promoted model."""


def evaluate(
    aligned: Path,
    split: Path,
    model: Path,
    out: Path,
    options: EvaluateOptions = EvaluateOptions(),
    champion: str = "",
) -> EvaluateResult:
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
    rule = options.gate
    degradation = options.degradation
    lfw_archive, lfw_pairs, pairs = options.lfw_archive, options.lfw_pairs, options.pairs
    bootstrap, max_pairs, seed, fmr, device = (
        options.bootstrap, options.max_pairs, options.seed, options.fmr, options.device,
    )  # fmt: skip
    enlarger = _enlarger(options.superresolver, model)
    bad, probed = Degradation.parse(degradation, enlarger), parse_probes(options.probes)
    bins, sides = options.bin_sets_by_name(), options.sides()
    table, divided = Table(aligned, "aligned"), Table(split, "split")
    photographs = heldout_photographs(table, divided, model)
    heldout, paired = photographs.people, photographs.pairs is not None
    if enlarger:
        refuse_seen(enlarger.identities, heldout.values(), enlarger.name, divided)
    few = paired or bad.kind == "lowres"
    bad = Degradation() if paired else bad
    sets = {"heldout": bad, "heldout_clean": Degradation()} if bad or paired else {"heldout": bad}
    measured = [
        *sets,
        *([CROSS] if few else []),
        *(["pairs"] if pairs else []),
        *(["lfw"] if lfw_archive else []),
        *bins,
    ]
    # What is wrong with any of the sets is said now, not after the others.
    require_target(rule, measured)
    if lfw_archive:
        read_pairs(lfw_pairs)
        with open_source(lfw_archive):
            pass
    for uri in bins.values():
        read_bin(uri)
    models = load_models(model, champion, table, device)
    template = models["finetuned"].template
    with new_folder(out) as folder:
        crops = embed_crops(photographs, models, sets)
        compared = all_pairs(crops.people, max_pairs, seed)
        require(bool(compared.same.any()), f"{divided.folder}: no held-out person has two images")
        fars = supported_fars(int(np.sum(~compared.same)))
        require(bool(fars), f"{divided.folder}: {len(compared)} pairs of held-out people are too few to measure on")
        far = max(GATE_FAR, min(fars))
        intervals = Bootstrap(bootstrap, seed, rule.confidence, far)
        settings = {
            "fmr": fmr, "probes": [probe_name(item) for item in probed], "bootstrap": bootstrap,
            "max_pairs": max_pairs, "seed": seed, **({"sizes": options.sizes} if few else {}),
        }  # fmt: skip
        evaluation = record(table, divided, bad, rule, settings, models) | {
            "people": int(crops.people.max()) + 1,
            "images": len(crops.ids),
            "pairs": len(compared),
            "gate_far": far,
            "models": told_of(model, models, champion, heldout),
            "paired": {}, "forgotten": [], "histograms": {},
        }  # fmt: skip
        found = [crops.pair_set(name, name, compared) for name in sets]
        if few:
            evaluation["few_pixels"] = {
                "paired": paired,
                "alone": photographs.alone,
                "superresolver": enlarger.name if enlarger else BICUBIC,
            }
            found.append(cross_set(crops, max_pairs, seed))
        if pairs:
            found.append(crops.pair_set("pairs", "heldout", read_user_pairs(pairs, crops.index(table))))
        if lfw_archive:
            benchmark = evaluate_lfw(
                lfw_archive, lfw_pairs, table.manifest.settings["detector"], models, template=template,
                further=[Degradation("lowres", side, enlarger=enlarger) for side in sides] if few else [],
            )  # fmt: skip
            evaluation["lfw"] = {key: benchmark[key] for key in ("pairs", "images", "detector", "fallback")}
            if few:
                evaluation["lfw"]["sizes"] = [
                    {"size": str(side)} | {which: _without_roc(figures) for which, figures in measured_at.items()}
                    for side, measured_at in zip(sides, benchmark["further"], strict=True)
                ]
            found.append(_benchmark("lfw", benchmark))
        found += [_benchmark(name, evaluate_bin(uri, models, template)) for name, uri in bins.items()]
        for entry in found:
            tell(evaluation, entry, intervals)
        decided = next(entry for entry in found if entry.name == rule.target) if rule.target == CROSS else found[0]
        evaluation |= _beyond_pairs(table, crops, compared, found, decided, intervals, fmr)
        if probed:
            evaluation["probes"] = probe(
                models, photographs.crops, heldout, probed, far, bootstrap, seed, rule.confidence
            )
        if few:
            fixed = fixed_thresholds(crops, compared, fmr)
            evaluation["resolutions"], shown = _by_size(photographs, models, sides, enlarger, intervals, fixed)
        evaluation["gate"] = decide(evaluation, rule)
        evaluation["forgotten"] = largest_falls(evaluation["forgotten"])
        evaluation["hardest"] = _hardest(found[0])
        if few:
            evaluation["hardest_cross"] = _hardest(next(entry for entry in found if entry.name == CROSS))
        write_json(folder / "evaluation.json", evaluation)
        _write_tables(folder, model, evaluation, crops.ids, found)
        write_pictures(folder, photographs, evaluation, bad)
        write_samples(folder, photographs, crops.ids[:SAMPLES], bad)
        if few:
            write_sizes(folder, photographs, shown, enlarger)
        write_benchmark_pictures(folder, evaluation, lfw_archive, template, bins)
    print(f"evaluate: {evaluation['gate']['reason']}", flush=True)
    main = {
        f"{which}_{key}": evaluation[which]["heldout"][key] for which in models for key in ("accuracy", "auc", "eer")
    }
    return EvaluateResult(rows_in=len(crops.ids), rows_out=len(compared), identities=evaluation["people"], **main)


def _enlarger(superresolver: str, model: Path) -> Enlarger | None:
    """What enlarges few pixels, None for bicubic interpolation."""
    if superresolver:
        return None if superresolver == BICUBIC else open_enlarger(superresolver, cpu_limit())
    return model_enlarger(str(model), ModelRecord.read(model / "model.json"), cpu_limit())


def _without_roc(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name != "roc"}


def _by_size(
    photographs: Heldout, models: Mapping[str, Model], sizes: list[int], enlarger: Enlarger | None,
    intervals: Bootstrap, fixed: Fixed,
) -> tuple[dict[str, Any], dict[str, list[str]]]:  # fmt: skip
    """Figures of each size, on at most as many photographs as a probe takes, and ids of some of them by size."""
    wanted = choose_images(photographs.people, intervals.seed)
    sides = None
    if photographs.pairs is not None:
        names = list(wanted)
        sides = dict(zip(names, sides_of(photographs.table, names).tolist(), strict=True))
    order, sharp, found = embed_sizes(
        models, map(views_as, photographs.views(wanted)), len(wanted), sizes, enlarger, sides
    )
    _, people = np.unique([wanted[image_id] for image_id in order], return_inverse=True)
    told = measure_sizes(found, sharp, people, intervals, fixed)
    measured = {row["size"] for row in told["rows"]} - {CLEAN}
    return told, {size.name: [order[place] for place in size.images[:SIZED]] for size in found if size.name in measured}


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
    figures = found["models"]["model"]
    figures.pop("roc")
    listed = (
        f": {', '.join(found['fallback'][:5])}{', …' if len(found['fallback']) > 5 else ''}"
        if found["fallback"]
        else ""
    )
    print(f"pairs scored {found['pairs']} of {found['pairs']}, {found['images']} images")
    print(f"images without a face, centre crop used {len(found['fallback'])}{listed}")
    for name, entry in (("accuracy", figures), ("accuracy with flip", figures["flip"])):
        print(f"{name} {100 * entry['accuracy']:.2f} % ± {100 * entry['accuracy_standard_error']:.2f}", flush=True)
    return LfwResult(rows_in=found["images"], rows_out=found["pairs"], fallback=found["fallback"], **figures)


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


def _benchmark(name: str, found: Mapping[str, Any]) -> PairSet:
    """LFW or a .bin set as what is told of a set; a .bin set knows no names, its images are <set>/<place>."""
    wanted = found["pairs_file"]
    figures = {which: dict(entry) for which, entry in found["models"].items()}
    roc = {which: entry.pop("roc") for which, entry in figures.items()}
    images = wanted.images if name == "lfw" else [f"{name}/{place}" for place in wanted.images]
    identities = [image.partition("/")[0] if name == "lfw" else "" for image in images]
    folds = wanted.folds if wanted.folds.max() > 0 else None
    return PairSet(name, images, identities, wanted.people, wanted.pairs, folds, found["scores"], figures, roc)


def _beyond_pairs(
    table: Table, crops: HeldoutCrops, compared: Pairs, found: list[PairSet], decided: PairSet, intervals: Bootstrap,
    fmr: float,
) -> dict[str, Any]:  # fmt: skip
    """Calibration on the pairs that are decided about later, groups, identification, compatibility with the old
    gallery, and figures of every pair there is."""
    samples, seed, confidence = intervals.samples, intervals.seed, intervals.confidence
    sets = {entry.name for entry in found}
    target, clean = found[0], found[1] if "heldout_clean" in crops.embeddings else found[0]

    def calibrated(entry: PairSet) -> dict[str, dict[str, Any]]:
        return {
            which: calibrate(scores, entry.pairs, entry.people, fmr, samples, seed, confidence)
            for which, scores in entry.scores.items()
        }

    own = calibrated(target)
    both = ("baseline", "finetuned")
    old = "champion" if "champion" in target.scores else "baseline"
    enrolled = "heldout_clean" if clean is not target else "heldout"
    old_clean, new_clean = (threshold_at(clean.scores[which], compared.same, fmr) for which in (old, "finetuned"))
    told: dict[str, Any] = {
        "calibration": own if decided is target else calibrated(decided),
        **({"calibrated_on": decided.name} if decided is not target else {}),
        "groups": {
            column: group_errors(
                values, compared, crops.people, {which: target.scores[which] for which in both},
                {which: own[which]["threshold"] for which in both}, own["finetuned"]["fmr"], samples,
                seed, confidence,
            )
            for column, values in group_columns(table, crops.ids).items()
            if not (column in (RESOLUTION, ENLARGED) and CROSS in sets)  # no groups of people, and told of by size
        },
        "identification": {
            name: {
                which: identification_rates(entry.plain(), crops.people, seed, samples, confidence=confidence)
                for which, entry in by_model.items()
            }
            for name, by_model in crops.embeddings.items()
        },
        "compatibility": {"old": old}
        | compatibility(
            crops.embeddings[enrolled][old].plain(), crops.embeddings[enrolled]["finetuned"].plain(), compared,
            crops.people, old_clean, new_clean, own[old]["fmr"], samples, seed, confidence,
        ),
    }  # fmt: skip
    total = len(crops.ids) * (len(crops.ids) - 1) // 2
    if len(compared) < total:
        told["all_pairs"] = {
            name: {which: count_scores(entry.plain(), crops.people).figures() for which, entry in by_model.items()}
            for name, by_model in crops.embeddings.items()
        }
    return told


def _hardest(target: PairSet) -> dict[str, Any]:
    """The genuine pairs that the fine-tuned model finds least alike and the impostors it finds most alike."""
    after, before, pairs = target.scores["finetuned"], target.scores["baseline"], target.pairs

    def described(order: Ints) -> list[dict[str, Any]]:
        return [
            {
                "left": target.images[pairs.left[index]],
                "right": target.images[pairs.right[index]],
                "left_identity": target.identities[pairs.left[index]],
                "right_identity": target.identities[pairs.right[index]],
                "before": float(before[index]),
                "after": float(after[index]),
            }
            for index in order[:HARDEST]
        ]

    genuine, impostor = np.flatnonzero(pairs.same), np.flatnonzero(~pairs.same)
    return {
        "genuine": described(genuine[np.argsort(after[genuine], kind="stable")]),
        "impostor": described(impostor[np.argsort(-after[impostor], kind="stable")]),
    }


def _write_tables(
    folder: Path, model: Path, evaluation: Mapping[str, Any], ids: list[str], found: list[PairSet]
) -> None:
    """threshold.json, roc.json, thresholds.csv, and every pair of held-out people with its scores."""
    weights = read_json(model / "model.json")["weights_sha256"]
    threshold = threshold_file(evaluation["calibration"]["finetuned"], weights)
    write_json(folder / "threshold.json", threshold | {"degradation": evaluation["degradation"]})
    write_json(folder / "roc.json", {entry.name: entry.roc for entry in found})
    rows = [row for entry in found for row in thresholds(entry)]
    with open(folder / "thresholds.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    _write_scores(folder / "scores.parquet", ids, [entry for entry in found if entry.pairs is found[0].pairs])
    if cross := [entry for entry in found if entry.name == CROSS]:
        _write_scores(folder / "scores_cross.parquet", cross[0].images, cross)


def _write_scores(path: Path, ids: Sequence[str], found: list[PairSet]) -> None:
    """The scores of sets that have the same pairs; `ids` are the names of their images."""
    pairs, names = found[0].pairs, np.array(ids)
    columns: dict[str, Any] = {"left": names[pairs.left], "right": names[pairs.right], "same": pairs.same}
    for entry in found:
        columns |= {f"{entry.name}_{which}": scores.astype(np.float32) for which, scores in entry.scores.items()}
    pq.write_table(pa.table(columns), path, compression="ZSTD")
