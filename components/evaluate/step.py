"""Evaluate: the fine-tuned model beside the one it started from, on people neither was tuned on."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.evaluate.embeddings import Embeddings, embed_batch
from components.evaluate.gate import GATE_FAR, decide
from components.evaluate.lfw import evaluate_lfw, read_pairs
from components.faces.degrade import Degradation
from components.faces.errors import require
from components.faces.folders import new_folder, read_json, write_json
from components.faces.images import RGB, decode_rgb, encode_png
from components.faces.metrics import (
    Floats,
    Ints,
    Pairs,
    all_pairs,
    bootstrap_difference,
    roc_points,
    supported_fars,
    threshold_table,
    verification,
)
from components.faces.model import TEMPLATE, FaceModel, choose_device, digest, load_model, load_pretrained
from components.faces.progress import Progress
from components.faces.runtime import VERSION
from components.faces.sources import open_source
from components.faces.table import Table

BATCH = 64
HARDEST = 8  # pairs of each kind that are kept as pictures
SAMPLES = 8  # crops that show what the degradation does


def evaluate(
    aligned: Path,
    split: Path,
    model: Path,
    out: Path,
    degradation: str = "none",
    lfw_archive: str = "",
    lfw_pairs: str = "",
    max_loss: float = 0.01,
    max_pairs: int = 1_000_000,
    bootstrap: int = 1000,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Compares the fine-tuned model with its starting model on held-out people, and on LFW where given.

    Sets: `heldout` with the degradation on every crop (the target domain), `heldout_clean` without it
    where there is one, `lfw`. Every figure is measured with and without flip test-time augmentation.
    Leaves evaluation.json (figures, 95 % intervals of the gains, verdict), roc.json, thresholds.csv,
    scores.parquet, pairs/*.png (hardest pairs) and samples/*.png.

    Args:
        aligned: Aligned table.
        split: Split table; its heldout images are used.
        model: Model folder of finetune.
        out: Folder to write the evaluation to.
        degradation: Put on the crops of the target set, as noise:60, lowres:14, blur:4, jpeg:5, dark or none.
        lfw_archive: LFW's images (folder, tar or zip; path, s3:// or https://); empty for none.
        lfw_pairs: LFW's pairs.txt; needed with lfw_archive.
        max_loss: Largest loss on clean people (AUC) and on LFW (accuracy) that the gate allows, as a share.
        max_pairs: Most pairs scored; beyond it impostor pairs are drawn at random.
        bootstrap: Samples of people for the intervals.
        device: auto, cpu or cuda.
        seed: Seed of the drawing of pairs and samples.

    Returns:
        rows_in (images), rows_out (pairs), identities, and the main figures before and after.

    Raises:
        KubefaceError: wrong settings, corrupt tables or model, fewer than two held-out people, or one of them was
            trained on.
    """
    require(max_loss >= 0, f"max_loss is {max_loss}: it must not be negative")
    require(bootstrap >= 100, f"bootstrap is {bootstrap}: intervals need at least 100 samples")
    require(max_pairs >= 1000, f"max_pairs is {max_pairs}: at least 1000 are needed")
    require(bool(lfw_archive) == bool(lfw_pairs), "lfw_archive and lfw_pairs go together: give both or neither")
    bad = Degradation.parse(degradation)
    where = choose_device(device)
    table, divided = Table(aligned, "aligned"), Table(split, "split")
    rows = divided.columns(["image_id", "identity", "split"]).to_pylist()
    heldout = {row["image_id"]: row["identity"] for row in rows if row["split"] == "heldout"}
    require(
        len(set(heldout.values())) >= 2,
        f"{divided.folder} holds out {len(set(heldout.values()))} people, at least 2 are needed",
    )
    training = read_json(model / "model.json").get("training", {})
    require("start_sha256" in training, f"{model / 'model.json'} tells of no training: give finetune's folder")
    leaked = sorted(set(heldout.values()) & set(read_json(model / "identities.json")))
    require(
        not leaked,
        f"{len(leaked)} held-out people of {divided.folder} are people that {model} was trained on, "
        f"{leaked[0] if leaked else ''} first: evaluate with the split that it was trained with",
    )
    if lfw_archive:
        read_pairs(lfw_pairs)  # what is wrong with them is said now, not after the other sets
        with open_source(lfw_archive):
            pass
    models = {
        "baseline": load_pretrained(training["backbone"], training["pretrained"], where),
        "finetuned": load_model(model, where),
    }
    template = models["finetuned"].template
    require(
        table.manifest["settings"].get("template", TEMPLATE) == template,
        f"{aligned} was aligned to another template than {template}, which {model} was trained on: align with it",
    )
    require(
        digest(models["baseline"].network) == training["start_sha256"],
        f"the starting weights of {model} ({training['pretrained'] or training['backbone']}) are no longer the ones it "
        "was trained from: there is nothing fair to compare with",
    )
    require(
        models["baseline"].preprocessing == models["finetuned"].preprocessing,
        f"{model / 'model.json'} says another preprocessing than the starting model has, with which it was trained",
    )
    sets = {"heldout": bad, "heldout_clean": Degradation()} if bad else {"heldout": bad}
    with new_folder(out) as folder:
        ids, collected = _embed(table, heldout, models, sets)
        _, people = np.unique([heldout[image_id] for image_id in ids], return_inverse=True)
        pairs = all_pairs(people, max_pairs, seed)
        require(bool(pairs.same.any()), f"{divided.folder}: no held-out person has two images")
        fars = supported_fars(int(np.sum(~pairs.same)))
        require(bool(fars), f"{divided.folder}: {len(pairs)} pairs of held-out people are too few to measure on")
        evaluation: dict[str, Any] = {
            "producer": f"evaluate {VERSION}",
            "aligned": table.sha256,
            "split": divided.sha256,
            "degradation": str(bad),
            "people": int(people.max()) + 1,
            "images": len(ids),
            "pairs": len(pairs),
            "gate_far": max(GATE_FAR, min(fars)),
            "baseline": {},
            "finetuned": {},
            "gain": {},
        }
        roc: dict[str, Any] = {}
        scores: dict[str, Floats] = {}
        thresholds = []
        for name in sets:
            roc[name] = {}
            for which in models:
                embeddings = collected[name, which]
                scores[f"{name}_{which}"] = pairs.scores(embeddings.plain())
                measured = scores[f"{name}_{which}"]
                evaluation[which][name] = verification(measured, pairs.same)
                evaluation[which][name]["flip"] = verification(pairs.scores(embeddings.flipped()), pairs.same)
                roc[name][which] = roc_points(measured, pairs.same)
                thresholds += [{"set": name, "model": which} | row for row in threshold_table(measured, pairs.same)]
            before, after = scores[f"{name}_baseline"], scores[f"{name}_finetuned"]
            far = evaluation["gate_far"]
            evaluation["gain"][name] = bootstrap_difference(before, after, pairs, people, far, bootstrap, seed)
        if lfw_archive:
            detector = table.manifest["settings"]["detector"]
            lfw = evaluate_lfw(lfw_archive, lfw_pairs, detector, models, template=template)
            for which in models:
                roc.setdefault("lfw", {})[which] = lfw["models"][which].pop("roc")
                evaluation[which]["lfw"] = lfw["models"][which]
            evaluation["lfw"] = {key: lfw[key] for key in ("pairs", "images", "detector", "fallback")}
        evaluation["gate"] = decide(evaluation, max_loss)
        evaluation["hardest"] = _hardest(ids, heldout, pairs, scores)
        write_json(folder / "evaluation.json", evaluation)
        write_json(folder / "roc.json", roc)
        _write_thresholds(folder / "thresholds.csv", thresholds)
        _write_scores(folder / "scores.parquet", ids, pairs, scores)
        _write_pictures(folder, table, evaluation["hardest"], ids[:SAMPLES], bad)
    print(f"evaluate: {evaluation['gate']['reason']}", flush=True)
    return {"rows_in": len(ids), "rows_out": len(pairs), "identities": evaluation["people"]} | {
        f"{which}_{key}": evaluation[which]["heldout"][key] for which in models for key in ("accuracy", "auc", "eer")
    }


def lfw(
    archive: str,
    pairs: str,
    model: str = "",
    backbone: str = "sface",
    detector: str = "mtcnn",
    degradation: str = "none",
    device: str = "auto",
) -> dict[str, Any]:
    """Measures one model on LFW's View 2 (or View 1) and prints the figures.

    Args:
        archive: LFW's images (folder, tar or zip; path, s3:// or https://).
        pairs: LFW's pairs.txt.
        model: Model folder or weights file to measure; empty for the backbone's published weights.
        backbone: Name of the backbone.
        detector: Detector for the alignment, mtcnn or retinaface.
        degradation: Put on every aligned crop, as noise:60, lowres:14, blur:4, jpeg:5, dark or none.
        device: auto, cpu or cuda.

    Returns:
        rows_in (images), rows_out (pairs), and the verification figures with and without flip.

    Raises:
        KubefaceError: something cannot be read, or an image of a pair is missing.
    """
    bad = Degradation.parse(degradation)
    models = {"model": load_pretrained(backbone, model, choose_device(device))}
    found = evaluate_lfw(archive, pairs, detector, models, bad, models["model"].template)
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
    return {"rows_in": found["images"], "rows_out": found["pairs"], "fallback": found["fallback"], **figures}


def log_roc(curve: Any, evaluation: Path) -> None:
    """Hands the fine-tuned model's ROC on the target set to a `ClassificationMetrics` artifact."""
    points = read_json(evaluation / "roc.json")["heldout"]["finetuned"]
    curve.log_roc_curve(points["fmr"], points["tmr"], points["threshold"])


def _crops(table: Table, wanted: dict[str, str]) -> Iterator[tuple[list[str], list[RGB]]]:
    """Ids and clean crops of the wanted images, a batch at a time in stored order."""
    ids: list[str] = []
    crops: list[RGB] = []
    for rows in table.row_groups(["image_id", "image"]):
        for row in rows:
            if row["image_id"] in wanted:
                ids.append(row["image_id"])
                crops.append(decode_rgb(row["image"]))
            if len(ids) == BATCH:
                yield ids, crops
                ids, crops = [], []
    if ids:
        yield ids, crops


def _embed(
    table: Table, wanted: dict[str, str], models: dict[str, FaceModel], sets: dict[str, Degradation]
) -> tuple[list[str], dict[tuple[str, str], Embeddings]]:
    """Image ids, and embeddings by (set, model) in the same order."""
    collected = {(name, which): Embeddings() for name in sets for which in models}
    order: list[str] = []
    with Progress("evaluate", len(wanted)) as progress:
        for ids, crops in _crops(table, wanted):
            order += ids
            for name, degradation in sets.items():
                batch = np.stack([degradation(crop, "probe", i) for crop, i in zip(crops, ids, strict=True)])
                for which, model in models.items():
                    collected[name, which].append(*embed_batch(model, batch))
            progress.advance(len(ids))
    require(len(order) == len(wanted), f"{table.folder} lacks images that the split names: run split on this table")
    return order, collected


def _hardest(ids: list[str], heldout: dict[str, str], pairs: Pairs, scores: dict[str, Floats]) -> dict[str, Any]:
    """The genuine pairs that the fine-tuned model finds least alike and the impostors it finds most alike."""
    after, before = scores["heldout_finetuned"], scores["heldout_baseline"]

    def described(order: Ints) -> list[dict[str, Any]]:
        return [
            {
                "left": ids[pairs.left[index]],
                "right": ids[pairs.right[index]],
                "left_identity": heldout[ids[pairs.left[index]]],
                "right_identity": heldout[ids[pairs.right[index]]],
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


def _write_thresholds(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_scores(path: Path, ids: list[str], pairs: Pairs, scores: dict[str, Floats]) -> None:
    """Every pair with its score under each model and set."""
    names: NDArray[np.str_] = np.array(ids)
    columns = {"left": names[pairs.left], "right": names[pairs.right], "same": pairs.same}
    pq.write_table(pa.table(columns | {k: v.astype(np.float32) for k, v in scores.items()}), path, compression="ZSTD")


def _write_pictures(folder: Path, table: Table, hardest: dict[str, Any], samples: list[str], bad: Degradation) -> None:
    """The crops of the hardest pairs as the models saw them, and some crops before and after the degradation."""
    seen = {pair[side] for pairs in hardest.values() for pair in pairs for side in ("left", "right")}
    (folder / "pairs").mkdir()
    (folder / "samples").mkdir()
    for ids, crops in _crops(table, dict.fromkeys([*seen, *samples], "")):
        for image_id, crop in zip(ids, crops, strict=True):
            degraded = bad(crop, "probe", image_id)
            if image_id in seen:
                (folder / "pairs" / f"{image_id}.png").write_bytes(encode_png(degraded))
            if image_id in samples:
                both = np.concatenate([crop, degraded], axis=1) if bad else crop
                (folder / "samples" / f"{image_id}.png").write_bytes(encode_png(both))
