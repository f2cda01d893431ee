"""A small synthetic run: what the steps leave for the report, with and without all that evaluate can measure."""

import csv
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kubeface.faces.images import encode_png
from kubeface.records.promotion import PromotionRecord
from kubeface.report.options import ReportOptions
from kubeface.report.run import RunOutputs
from kubeface.report.step import ReportResult, report
from kubeface.storage.folders import read_json, write_json
from kubeface.tables.table import Table, TableWriter
from tests.support.tables import DETECTED, HASHES

HOSTILE = "<img src=x onerror=1>"
LONG = "x" * 120  # a name that no line can be broken in
IMAGES = 4  # of each identity
AUDIT = {
    "counts": {"duplicates": 3, "same_photo_two_names": 2, "suspects": 1, "alike_pairs": 4, "leaks": 5,
               "reasons": {"leak": 5}},
    "drift": {"compared": True, "features": {"brightness": 0.31}, "worst": "brightness", "exceeded": False},
}  # fmt: skip
SHARD_STEPS = ("ingest", "align", "filter")
PROMOTED = PromotionRecord(
    producer="promote 0.1.0", promoted=True, reason="better than the champion", uri="s3://models/sface/7", version="7"
)
STEPS = ("gather", "audit", "split", "finetune", "evaluate", "promote")


FOLDERS = ("gathered", "audited", "aligned", "filtered", "split", "model", "evaluation", "promotion")


@dataclass(frozen=True)
class MadeRun:
    """The outputs of a run, and where its report goes."""

    outputs: RunOutputs
    html: Path
    summary: Path

    def report(self, options: ReportOptions = ReportOptions(), pdf: Path | None = None) -> ReportResult:
        """Makes the report."""
        return report(self.outputs, self.html, self.summary, options, pdf)

    def figures(self) -> dict[str, Any]:
        """Makes the report; returns summary.json."""
        self.report()
        return dict(read_json(self.summary))

    def with_outputs(self, **outputs: Any) -> "MadeRun":
        """The same run with some outputs of another one."""
        return replace(self, outputs=replace(self.outputs, **outputs))


def colour(number: int, size: int = 8) -> bytes:
    """A PNG of one colour that depends on the number."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:] = (37 * number % 256, 91 * number % 256, 53 * number % 256)
    return encode_png(pixels)


def write_tables(folder: Path, names: list[str], reject: bool, classes: bool = False) -> list[tuple[str, str]]:
    """The four tables; every third identity is held out, of classes an image of each and the last class whole.

    Returns image_id and identity of the held-out images.

    With `reject`, ingest and align reject two images, and the filter rejects the last image of each held-out identity.
    """
    with (
        TableWriter(folder / "aligned", "aligned", "align", {}) as aligned,
        TableWriter(folder / "filtered", "filter", "filter", {}) as filtered,
        TableWriter(folder / "split", "split", "split", {"apply_filter": "validation"}) as split,
    ):
        heldout = []
        for number, (name, image) in enumerate((name, image) for image in range(IMAGES) for name in names):
            out = (image == 0 or name == names[-1]) if classes else names.index(name) % 3 == 0
            image_id, source = f"{number:016x}", f"{name}/{image}.png"
            row = {"image_id": image_id, "identity": name, "source": source}
            aligned.add({**row, **HASHES, **DETECTED, "image": colour(number), "width": 8, "height": 8})
            bad = reject and out and image == IMAGES - 1
            reason = "low_score" if bad else None
            filtered.add(
                {
                    "image_id": image_id,
                    "kept": not bad,
                    "reason": reason,
                    "score": 0.5,
                    "face_size": 8.0,
                    "faces": 1,
                    "sharpness": 9.0,
                    "turn": 0.0,
                    "agreement": 1.0,
                }
            )
            if bad:
                filtered.reject(source, "low_score", "score 0.500, face 8 pixels")
            part = "excluded" if bad else "heldout" if out else "val" if image == IMAGES - 1 else "train"
            why = "filter: low_score" if bad else None
            split.add({"image_id": image_id, "identity": name, "split": part, "reason": why})
            if part == "heldout":
                heldout.append((image_id, name))
    write_gathered(folder / "gathered", IMAGES * len(names), len(names), heldout, reject)
    return heldout


def write_gathered(folder: Path, images: int, people: int, heldout: list[tuple[str, str]], reject: bool) -> None:
    """What gather says of the steps before it."""
    folder.mkdir()
    rejected: list[tuple[str, str, str, str]] = []
    if reject:
        rejected = [
            ("ingest", "somebody/notes.txt", "not_an_image", "<b>none</b> of JPEG, PNG"),
            ("align", "somebody/wall\udce9.png", "no_face", ""),  # a name that is not UTF-8
            *(
                ("filter", f"{name}/{IMAGES - 1}.png", "low_score", "score 0.500, face 8 pixels")
                for name in sorted({name for _, name in heldout})
            ),
        ]
    with open(folder / "rejected.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([("step", "source", "reason", "detail"), *rejected])
    counts = {step: dict(Counter(row[2] for row in rejected if row[0] == step)) for step in SHARD_STEPS}
    data = {"images": images, "identities": people, "rejected": counts, "shards": {"0/1": "f" * 64},
            "changed_shards": ["0/1"], "erasure": {"marks": [], "files_left_out": 0}}  # fmt: skip
    write_json(folder / "data.json", data)
    steps = {step: {"rows_in": 90 + n, "rows_out": n, "seconds": 1.5} for n, step in enumerate(SHARD_STEPS)}
    write_json(folder / "steps.json", steps)


def verification(accuracy: float) -> dict[str, Any]:
    """Figures of one model on one set as evaluate writes them; the better, the nearer `accuracy` is to 1."""
    figures = {
        "accuracy": accuracy,
        "accuracy_standard_error": 0.004,
        "threshold": 0.4,
        "auc": accuracy + 0.01,
        "eer": 1 - accuracy,
        "tar_at_far": {"0.01": accuracy - 0.2, "0.1": accuracy - 0.1, "1e-05": accuracy - 0.3},
        "genuine_pairs": 600,
        "impostor_pairs": 7000,
    }
    return figures | {"flip": figures | {"accuracy": accuracy + 0.001}}


def gain(before: float, after: float) -> dict[str, float]:
    change = after - before
    return {"before": before, "after": after, "gain": change, "gain_low": change - 0.05, "gain_high": change + 0.05}


def write_evaluation(folder: Path, heldout: list[tuple[str, str]], split: str, degradation: str, lfw: bool) -> None:
    sets = ["heldout", *(["heldout_clean"] if degradation != "none" else []), *(["lfw"] if lfw else [])]
    (left, left_name), (right, right_name) = heldout[0], heldout[1]
    pair = {"left": left, "left_identity": left_name, "right": right, "right_identity": right_name}
    curve = {"fmr": [0.0, 1e-6, 0.01, 0.1, 1.0], "tmr": [0.0, 0.4, 0.5, 0.8, 1.0], "threshold": [1, 0.8, 0.6, 0.4, 0]}
    evaluation = {
        "producer": "evaluate 0.1.0",
        "split": split,
        "degradation": degradation,
        "people": 3,
        "images": len(heldout),
        "pairs": 7600,
        "gate_far": 0.01,
        "baseline": {name: verification(0.8) for name in sets},
        "finetuned": {name: verification(0.9) for name in sets},
        "gain": {name: {"auc": gain(0.81, 0.91), "tar": gain(0.6, 0.7)} for name in sets if name != "lfw"},
        "gate": {
            "better": True,
            "reason": "better on 3 held-out people: AUC 81.00 % → 91.00 %",
            "checks": [{"name": "heldout auc", "passed": True, "text": "AUC 81.00 % → 91.00 %"}],
        },
        "hardest": {kind: [pair | {"before": 0.3, "after": 0.5}] for kind in ("genuine", "impostor")},
    }
    if lfw:
        evaluation["lfw"] = {"pairs": 6000, "images": 7701, "detector": "mtcnn", "fallback": ["A/A_0001", "B/B_0002"]}
    for name in ("pairs", "samples"):
        (folder / name).mkdir(parents=True)
        for number, image_id in enumerate((left, right)):
            (folder / name / f"{image_id}.png").write_bytes(colour(number))
    write_json(folder / "evaluation.json", evaluation)
    write_json(folder / "roc.json", {name: {"baseline": curve, "finetuned": curve} for name in sets})


def write_model(folder: Path, split: str, task: str = "recognition", backbone: str = "sface") -> None:
    (folder / "logs").mkdir(parents=True)
    training = {
        "producer": "finetune 0.1.0", "aligned": "0" * 64, "split": split, "head": "arcface", "lr": 1e-4,
        "pretrained": "", "freeze_batch_norm": True, "best_epoch": 2, "val_loss": 1.25, "val_accuracy": 0.75,
        "versions": {"torch": "2.14.1"},
    }  # fmt: skip
    model = {"backbone": backbone, "start": "wheel#sha256=1", "start_license": "MIT", "weights_sha256": "1" * 64}
    model |= {"embedding_size": 128, "alignment": {"template": "arcface_112", "size": 112}}
    model |= {"preprocessing": {"size": 112, "color_order": "rgb", "mean": 127.5, "std": 128.0}}
    write_json(folder / "model.json", model | {"task": task, "training": training})
    losses = {"train_loss": 3.0, "val_loss": 4.0, "train_accuracy": 0.5, "val_accuracy": 0.25, "seconds": 2.5}
    losses |= {"val_auc": 0.75 if task == "attributes" else None}
    write_json(folder / "logs" / "history.json", [{"epoch": n, "stage": min(n, 2), **losses} for n in (1, 2, 3)])


def numbers(count: int, low: float, high: float) -> list[float]:
    """So many shares between two, the same each time, up and down."""
    return [round(low + (high - low) * (math.sin(1.7 * number) + 1) / 2, 4) for number in range(count)]


ATTRIBUTE_FIGURES = (
    "auc", "average_precision", "precision", "recall", "f1", "accuracy", "balanced_accuracy", "calibration_error",
)  # fmt: skip


def attribute_figures(labels: list[str], level: float) -> dict[str, Any]:
    """Figures of one model on one set as evaluate writes them of attributes; the last label has too few images."""
    told: dict[str, Any] = {}
    for number, (label, value) in enumerate(zip(labels, numbers(len(labels), level - 0.1, level), strict=True)):
        few = number == len(labels) - 1
        told[label] = {
            **{name: None if few else value - place / 100 for place, name in enumerate(ATTRIBUTE_FIGURES)},
            "positives": 2 if few else 10 + number,
            "negatives": 1200 - number,
            "threshold": None if few else 0.4,
            "auc_low": None if few else value - 0.04,
            "auc_high": None if few else value + 0.03,
            "too_few": few,
        }
    means = {name: level - place / 100 for place, name in enumerate(ATTRIBUTE_FIGURES)}
    return {**means, "labels": told, "measured_labels": len(labels) - 1, "images": 1210}


def class_figures(labels: list[str], level: float) -> dict[str, Any]:
    """Figures of one model on one set as evaluate writes them of classes."""
    images, count = 20, len(labels)
    confusion = [[0] * count for _ in labels]
    for row, wrong in enumerate(numbers(count, 0, 2 * (1 - level))):
        confusion[row][row] = images - round(images * wrong)
        confusion[row][(3 * row + 1) % count if (3 * row + 1) % count != row else (row + 1) % count] += round(
            images * wrong
        )
    return {
        "accuracy": level, "macro_f1": level - 0.01, "balanced_accuracy": level - 0.02, "log_loss": 2.5 * (1 - level),
        "calibration_error": 0.05, "images": images * count,
        "classes": {
            label: {"images": images, "precision": level, "recall": line[row] / images, "f1": level - row / 500}
            for row, (label, line) in enumerate(zip(labels, confusion, strict=True))
        },
        "confusion": confusion,
        "unknown": {
            "threshold": 0.61, "images": 40, "refused": level - 0.1, "known_refused": 0.04,
            "accuracy_of_accepted": 0.97,
        },
    }  # fmt: skip


def write_labelled(folder: Path, heldout: list[tuple[str, str]], told: dict[str, Any], labels: list[str]) -> None:
    """The evaluation of attributes or classes.

    Args:
        folder: to write to.
        heldout: image_id and identity of the held-out images.
        told: task, split and degradation, and `others`, the models beside baseline and fine-tuned, by level.
        labels: names of the labels or classes.
    """
    attributes = told["task"] == "attributes"
    figures = attribute_figures if attributes else class_figures
    metrics = ["auc", "average_precision", "f1", "accuracy", "balanced_accuracy"]
    metrics = metrics if attributes else ["accuracy", "macro_f1", "balanced_accuracy"]
    sets = ["heldout", *(["heldout_clean"] if told["degradation"] != "none" else [])]
    models = {"baseline": 0.84, "finetuned": 0.93} | told["others"]
    measured = {model: {name: figures(labels, level) for name in sets} for model, level in models.items()}

    def over(model: str) -> dict[str, Any]:
        return {
            name: {key: gain(measured[model][name][key], measured["finetuned"][name][key]) for key in metrics}
            for name in sets
        }

    (folder / "grid").mkdir(parents=True)
    (folder / "mistakes").mkdir()
    (folder / "samples").mkdir()
    for number in range(8):
        for name in ("grid", "mistakes"):
            (folder / name / f"{number:03}.png").write_bytes(colour(number, 64))
        (folder / "samples" / f"{heldout[number % len(heldout)][0]}.png").write_bytes(colour(number))
    if attributes:
        said: list[Any] = [(labels[:3], [labels[0], labels[1], labels[4]]), ([], [])]
        wrong = {"label": labels[1], "true": 0, "predicted": 1, "score": 0.987}
        missed = {"label": labels[2], "true": 1, "predicted": 0, "score": 0.004}
    else:
        said = [(labels[:1], labels[:1]), (labels[:1], labels[1:2]), (labels[:1], [])]
        wrong = {"label": None, "true": labels[0], "predicted": labels[1], "score": 0.987}
        missed = {"label": None, "true": labels[0], "predicted": None, "score": 0.31}
    where = [{"image_id": image_id, "source": f"{name}/0.png"} for image_id, name in heldout]
    evaluation: dict[str, Any] = {
        "producer": "evaluate 0.1.0",
        "task": told["task"],
        "split": told["split"],
        "degradation": told["degradation"],
        "people": 3 if attributes else len(labels),
        "images": len(heldout),
        "labels": labels,
        **measured,
        "gain": over("baseline"),
        **{f"gain_over_{model}": over(model) for model in told["others"]},
        "gate": {
            "better": True,
            "reason": f"better on {len(heldout)} held-out images (3 people): 84.00 % → 93.00 %",
            "checks": [{"name": f"heldout {metrics[0]}", "passed": True, "text": "84.00 % → 93.00 %"}],
        },
        "sampling": {
            "images": 900,
            "drawn": 1200,
            "before": {label: 10 + 3 * number for number, label in enumerate(labels)},
            "after": {label: 120 + number for number, label in enumerate(labels)},
        },
        "chosen_on": {"split": "val", "images": 210},
        "grid": [
            {"file": f"grid/{number:03}.png", "true": true, "predicted": predicted, "right": true == predicted}
            | where[number % len(where)]
            for number, (true, predicted) in enumerate(said * 2)
        ],
        "mistakes": [
            {"file": f"mistakes/{number:03}.png"} | entry | where[number]
            for number, entry in enumerate((wrong, missed))
        ],
    }
    if attributes:
        phi: list[list[float | None]] = [numbers(len(labels), -0.6, 0.9) for _ in labels]
        for row in range(len(labels)):
            phi[row][-1] = phi[-1][row] = None  # a label that is constant
        evaluation["correlation"] = {"labels": labels, "true": phi, "predicted": phi}
        evaluation["thresholds"] = {model: dict.fromkeys(labels, 0.4) for model in models}
    write_json(folder / "evaluation.json", evaluation)


def make_run(
    folder: Path,
    identities: int = 9,
    reject: bool = False,
    degradation: str = "noise:60",
    lfw: bool = False,
    promotion: PromotionRecord | None = None,
    full: bool = False,
    task: str = "recognition",
    labels: int = 6,
) -> "MadeRun":
    """A run's outputs below `folder`, the first identity with a hostile name.

    With `full` the evaluation has every part it can have, and promote left a passport. A run of attributes has so many
    labels, the first with a hostile name; one of classes has the identities as its classes, the last one unknown, and
    with `full` a network from scratch.
    """
    names = [HOSTILE, *(f"person {number}" for number in range(1, identities))]
    if full:
        names[3] = LONG
    heldout = write_tables(folder, names, reject, task == "classes")
    split = Table(folder / "split", "split").sha256
    if task == "recognition":
        write_evaluation(folder / "evaluation", heldout, split, degradation, lfw)
    else:
        others = {"champion": 0.9} | ({"scratch": 0.7} if task == "classes" else {}) if full else {}
        told = {"task": task, "split": split, "degradation": degradation, "others": others}
        shown = names[:-1] if task == "classes" else [HOSTILE, *(f"Label_{number}" for number in range(1, labels))]
        write_labelled(folder / "evaluation", heldout, told, shown)
    write_model(folder / "model", split, task)
    scratch = full and task == "classes"
    if scratch:
        write_model(folder / "scratch", split, task, backbone="small_cnn")
        write_json(folder / "scratch.json", {"rows_in": 9, "rows_out": 9, "seconds": 61.5})
    (folder / "audited").mkdir()
    write_json(folder / "audited" / "data.json", AUDIT)
    (folder / "promotion").mkdir()
    (promotion or PROMOTED).write(folder / "promotion" / "promotion.json")
    for number, step in enumerate(STEPS):
        write_json(folder / f"{step}.json", {"rows_in": 100 + number, "rows_out": number, "seconds": 1.5, "more": 1})
    if full and task == "recognition":
        complete(folder / "evaluation", folder / "promotion")
    elif full:
        write_passport(folder / "promotion")
    outputs = RunOutputs(
        **{name: folder / name for name in FOLDERS},
        metrics={step: folder / f"{step}.json" for step in (*STEPS, *(["scratch"] if scratch else []))},
        scratch_model=folder / "scratch" if scratch else None,
    )
    return MadeRun(outputs, folder / "out" / "report.html", folder / "out" / "summary.json")


def complete(evaluation_folder: Path, promotion: Path) -> None:
    """Adds every part that an evaluation may lack to one that lacks them, and a passport to the promotion."""
    evaluation = read_json(evaluation_folder / "evaluation.json")
    roc = read_json(evaluation_folder / "roc.json")
    sets = list(evaluation["finetuned"])
    evaluation["champion"] = {name: evaluation["baseline"][name] for name in sets}
    for name, figures in evaluation["champion"].items():
        shift = (evaluation["finetuned"][name]["auc"] - figures["auc"]) / 2
        evaluation["champion"][name] = figures | {"auc": figures["auc"] + shift}
        roc[name]["champion"] = roc[name]["baseline"] | {
            "tmr": [
                (a + b) / 2 for a, b in zip(*(roc[name][m]["tmr"] for m in ("baseline", "finetuned")), strict=False)
            ]
        }
        roc[name]["champion"]["fmr"] = roc[name]["baseline"]["fmr"][: len(roc[name]["champion"]["tmr"])]
    for name in sets:
        entry = evaluation["gain"].setdefault(name, {"auc": gain(0.9, 0.95), "tar": gain(0.6, 0.7)})
        entry["accuracy"] = gain(evaluation["baseline"][name]["accuracy"], evaluation["finetuned"][name]["accuracy"])
    evaluation["gain_over_champion"] = {
        name: {"auc": gain(0.86, 0.91), "tar": gain(0.65, 0.7), "accuracy": gain(0.85, 0.9)} for name in sets
    }
    evaluation["models"] = {
        "champion": {
            "name": "sface",
            "weights_sha256": "2" * 64,
            "uri": "s3://models/sface/6",
            "heldout_people_trained_on": 2,
        }
    }
    counts = {"genuine": 4, "impostor": 5}
    evaluation["paired"] = {
        name: {
            "mcnemar": {"only_before": 9, "only_after": 120, "p": 1.5e-22 if name == "heldout" else 0.0215},
            "forgotten": counts,
            "learned": {"genuine": 100, "impostor": 20},
        }
        for name in sets
    }
    evaluation["forgotten"] = [
        {key: pair[key] for key in ("left", "right", "left_identity", "right_identity")}
        | {
            "set": "heldout",
            "kind": kind,
            "before": before,
            "after": 0.5,
            "threshold_before": 0.5,
            "threshold_after": at,
        }
        for kind, before, at in (("genuine", 0.7, 0.6), ("impostor", 0.3, 0.4))
        for pair in evaluation["hardest"][kind]
    ]
    unnamed = evaluation["forgotten"][-1]  # an image of a .bin set, which has no names
    evaluation["forgotten"].append(unnamed | {"set": "cfp_fp", "left": "cfp_fp/7", "left_identity": ""})
    left = (evaluation_folder / "pairs" / f"{unnamed['left']}.png").read_bytes()
    (evaluation_folder / "pairs" / "cfp_fp__7.png").write_bytes(left)
    if "lfw" in sets:  # its names have slashes, which files' names cannot have
        first = evaluation["forgotten"][0]
        picture = (evaluation_folder / "pairs" / f"{first['left']}.png").read_bytes()
        names = {"left": "Ann_Lee/Ann_Lee_0001", "right": "Ann_Lee/Ann_Lee_0002"}
        for name in names.values():
            (evaluation_folder / "pairs" / f"{name.replace('/', '__')}.png").write_bytes(picture)
        evaluation["forgotten"].append(first | names | {"set": "lfw"})
    evaluation["probes"] = [
        {
            "probe": probe,
            "baseline": {"accuracy": 0.9 - fall, "auc": 0.95 - fall, "tar": 0.8 - fall},
            "finetuned": {"accuracy": 0.95 - fall, "auc": 0.98 - fall, "tar": 0.9 - fall / 2},
            "gain": {"auc": gain(0.95 - fall, 0.98 - fall), "tar": gain(0.8 - fall, 0.9 - fall / 2)},
        }
        for probe, fall in (("clean", 0.0), ("lowres:32", 0.02), ("lowres:14", 0.3), ("blur:4", 0.2), ("masked", 0.7))
    ]
    told = {"people": 12, "images": 120, "genuine": 540, "impostor": 6600, "baseline": {"fmr": 0.0012, "fnmr": 0.08}}
    few = {"people": 1, "images": 10, "genuine": 45, "impostor": 0, "baseline": {"fmr": None, "fnmr": None}}
    groups = [
        told | {"group": HOSTILE, "finetuned": {"fmr": 0.0009, "fnmr": 0.04}}
        | {"fnmr_change": -0.04, "fnmr_change_low": -0.07, "fnmr_change_high": -0.01},
        few | {"group": LONG, "finetuned": {"fmr": None, "fnmr": None}}
        | {"fnmr_change": None, "fnmr_change_low": None, "fnmr_change_high": None},
    ]  # fmt: skip
    ratios = {"baseline": {"fmr": 2.5, "fnmr": 1.75}, "finetuned": {"fmr": None, "fnmr": 1.2}}
    evaluation["groups"] = {"sex": {"rows": groups, "worst_ratio": ratios}}
    rates = {"gallery": 13, "probes": 117, "rank1": 0.91, "rank1_low": 0.85, "rank1_high": 0.97}
    rates |= {"rank5": 0.98, "rank5_low": 0.94, "rank5_high": 1.0}
    unknown = {"enrolled": 6, "known_probes": 54.2, "unknown_probes": 70, "fnir_at_fpir": {"0.1": 0.123}}
    evaluation["identification"] = {
        "heldout": {
            "baseline": rates | {"rank1": 0.7, "rank1_low": 0.6, "rank1_high": 0.8, "open": unknown},
            "finetuned": rates | {"open": unknown | {"fnir_at_fpir": {"0.1": 0.045}}},
        }
    }
    calibrated = {"asked_fmr": 0.001, "fmr": 0.001, "threshold": 0.412, "threshold_low": 0.38, "threshold_high": 0.45}
    calibrated |= {"fnmr": 0.082, "impostor_pairs": 7800, "genuine_pairs": 585, "people": 13}
    calibrated |= {"slope": 21.5, "intercept": -8.25, "supported": True}
    evaluation["calibration"] = {
        "baseline": calibrated | {"threshold": 0.83, "asked_fmr": 0.0001, "fmr": 0.0004, "supported": False},
        "finetuned": calibrated,
        "champion": calibrated | {"threshold": 0.55},
    }
    every = {"auc": 0.8, "eer": 0.2, "genuine_pairs": 600, "impostor_pairs": 9_999_400}
    evaluation["all_pairs"] = {"heldout": {"baseline": every, "finetuned": every | {"auc": 0.9, "eer": 0.1}}}
    evaluation["compatibility"] = {
        "old": "champion", "comparable": True, "reason": None, "stays": False, "threshold": 0.83,
        "old_with_old": 0.4, "new_with_new": 0.9,
        "old_gallery_new_probe": 0.21, "old_gallery_new_probe_low": 0.12, "old_gallery_new_probe_high": 0.3,
        "match_change": -0.19, "match_change_low": -0.28, "match_change_high": -0.1,
        "false_matches": 0.0002, "genuine_pairs": 585, "people": 13, "gallery_still_matched": 0.23,
    }  # fmt: skip
    edges = np.linspace(-1, 1, 61)
    middles = (edges[:-1] + edges[1:]) / 2

    def bell(centre: float, width: float, pairs: int) -> list[int]:
        return [int(pairs * math.exp(-(((middle - centre) / width) ** 2))) for middle in middles]

    evaluation["histograms"] = {
        name: {
            model: {
                "edges": edges.tolist(),
                "genuine": bell(centre, 0.15, 90),
                "impostor": bell(centre - far, 0.1, 1500),
            }
            for model, centre, far in (("baseline", 0.75, 0.15), ("finetuned", 0.65, 0.5))
        }
        for name in sets
    }
    write_json(evaluation_folder / "evaluation.json", evaluation)
    write_json(evaluation_folder / "roc.json", roc)
    with open(evaluation_folder / "thresholds.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["set", "model", "threshold", "fmr", "fnmr", "accuracy"])
        for name in sets:
            for model in ("baseline", "finetuned"):
                writer.writerows([name, model, at / 10, 1 - at / 10, at / 10, 0.5] for at in range(11))
    write_passport(promotion)


def resolutions(paired: bool = False, network: bool = True) -> dict[str, Any]:
    """What evaluate writes of few pixels: of faces that a camera took, or that were made and enlarged by a network."""
    enlarged = network and not paired

    def figures(level: float) -> dict[str, Any]:
        told = {
            "accuracy": level, "accuracy_standard_error": 0.004, "accuracy_fixed": level - 0.05,
            "tmr_fixed": level - 0.3, "fmr_fixed": 0.001, "auc": level + 0.02, "tar": level - 0.2,
        }  # fmt: skip
        return told | {"flip": told | {"tar": level - 0.19}}

    def ranged(before: float, after: float) -> dict[str, float]:
        bounds = {f"before_{name}": before + by for name, by in (("low", -0.04), ("high", 0.03))}
        return (
            gain(before, after)
            | bounds
            | {f"after_{name}": after + by for name, by in (("low", -0.03), ("high", 0.02))}
        )

    def measured(level: float, few: bool) -> dict[str, Any]:
        levels = {"baseline": level, "finetuned": level + 0.06} | (
            {"bicubic": level - 0.05} if enlarged and few else {}
        )
        told = {which: figures(value) for which, value in levels.items()}

        def over(which: str) -> dict[str, Any]:
            names = ("auc", "tar", "accuracy", "accuracy_fixed")
            return {name: ranged(told[which][name], told["finetuned"][name]) for name in names}

        further = {"gain_over_bicubic": over("bicubic")} if "bicubic" in told else {}
        return {"pairs": 7000, "far": 0.01} | told | {"gain": over("baseline")} | further

    rows = []
    for name, level in (("10", 0.6), ("14", 0.7), ("20", 0.8), ("clean", 0.93)):
        few = name != "clean"
        rank1 = {which: level + by for which, by in (("baseline", -0.1), ("finetuned", 0.04))}
        rank1 |= {"bicubic": level - 0.2} if enlarged and few else {}
        rows.append(
            {
                "size": name, "images": 120, "people": 12, "probes": 108, "rank1": rank1,
                "cross": measured(level, few), "same": measured(level - 0.05 * few, few),
            }
        )  # fmt: skip
    return {
        "few_pixels": {
            "paired": paired,
            "alone": 2 if paired else 0,
            "superresolver": "edsr.onnx@12ab34cd56ef" if enlarged else "bicubic",
        },
        "resolutions": {
            "fmr": 0.001, "threshold": 0.3612, "threshold_flip": 0.3498, "rows": rows,
            "left_out": [{"size": "28", "images": 3}],
        },
    }  # fmt: skip


def add_resolutions(folder: Path, paired: bool = False, network: bool = True) -> None:
    """Adds what was measured at few pixels to a run of `make_run`, its set, pictures and LFW by size too.

    Args:
        folder: of the run.
        paired, network: as in `resolutions`.
    """
    evaluation = read_json(folder / "evaluation" / "evaluation.json") | resolutions(paired, network)
    roc = read_json(folder / "evaluation" / "roc.json")
    for which, level in (("baseline", 0.7), ("finetuned", 0.8)):
        evaluation[which]["heldout_cross"] = verification(level)
    evaluation["gain"]["heldout_cross"] = {"auc": gain(0.71, 0.81), "tar": gain(0.5, 0.6)}
    roc["heldout_cross"] = roc["heldout"]
    evaluation |= {"hardest_cross": evaluation["hardest"], "calibrated_on": "heldout_cross"}
    if "lfw" in evaluation:
        evaluation["lfw"]["sizes"] = [
            {"size": size} | {which: verification(level + by) for which, by in (("baseline", 0), ("finetuned", 0.05))}
            for size, level in (("10", 0.7), ("14", 0.8), ("20", 0.9))
        ]
    if paired:
        evaluation["degradation"] = "none"
    parts = 3 if network and not paired else 2
    for number, size in enumerate(("10", "14", "20")):
        (folder / "evaluation" / "sizes" / size).mkdir(parents=True)
        for face in range(4):
            strip = np.concatenate(
                [np.full((112, 112, 3), 60 + 30 * number + 40 * part, np.uint8) for part in range(parts)], 1
            )
            (folder / "evaluation" / "sizes" / size / f"{face}.png").write_bytes(encode_png(strip))
    write_json(folder / "evaluation" / "evaluation.json", evaluation)
    write_json(folder / "evaluation" / "roc.json", roc)
    if network:
        model = read_json(folder / "model" / "model.json")
        told = {"name": "edsr.onnx@12ab34cd56ef", "scale": 8, "sha256": "5" * 64, "identities": []}
        write_json(folder / "model" / "model.json", model | {"superresolution": told})


def write_passport(promotion: Path) -> None:
    passport = {
        "producer": "promote 0.1.0",
        "images": {"finetune": None},
        "seed": 7,
        "versions": {"torch": "2.14.1"},
        "metrics": {"gain": {"heldout": {"auc": 0.1}}},
        "files": {"model.onnx": {"sha256": "3" * 64, "bytes": 40_000_000}, HOSTILE: {"sha256": "4" * 64, "bytes": 1}},
    }
    write_json(promotion / "passport.json", passport)
