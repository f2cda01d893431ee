"""evaluation.json as evaluate writes it, with and without all that can be measured."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Json = dict[str, Any]

HOSTILE = "<img src=x onerror=1>"
LONG = "x" * 120  # a name that no line can be broken in
ATTRIBUTE_FIGURES = (
    "auc", "average_precision", "precision", "recall", "f1", "accuracy", "balanced_accuracy", "calibration_error",
)  # fmt: skip
GAINED = {
    "attributes": ("auc", "average_precision", "f1", "accuracy", "balanced_accuracy"),
    "classes": ("accuracy", "macro_f1", "balanced_accuracy"),
}


def shared(task: str, split: str, degradation: str, models: Sequence[str] = ("baseline", "finetuned")) -> Json:
    """What the evaluations of all tasks hold beside figures."""
    model = {"backbone": "sface", "weights_sha256": "1" * 64, "onnx_sha256": "3" * 64}
    return {
        "task": task,
        "producer": "evaluate 0.1.0",
        "aligned": "0" * 64,
        "split": split,
        "degradation": degradation,
        "settings": {"gate": {}, "bootstrap": 100, "seed": 0},
        "image": None,
        "versions": {"scipy": "1.16"},
        "models": dict.fromkeys(models, model),
    }


def gain(before: float, after: float) -> dict[str, float]:
    """A gain with its interval."""
    change = after - before
    return {"before": before, "after": after, "gain": change, "gain_low": change - 0.05, "gain_high": change + 0.05}


def verdict(reason: str, check: str, text: str, better: bool = True) -> Json:
    """What the gate decided, by one check."""
    checks = [{"name": check, "passed": better, "text": text}]
    return {"better": better, "reason": reason, "checks": checks, "rule": {}}


def verification(accuracy: float) -> Json:
    """Figures of one model on one set; the better, the nearer `accuracy` is to 1."""
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


def recognition(heldout: Sequence[tuple[str, str]], split: str, degradation: str, lfw: bool) -> Json:
    """An evaluation of recognition without what it may lack.

    Args:
        heldout: image_id and identity of the held-out images.
        split: SHA-256 of the split table.
    """
    sets = ["heldout", *(["heldout_clean"] if degradation != "none" else []), *(["lfw"] if lfw else [])]
    (left, left_name), (right, right_name) = heldout[0], heldout[1]
    pair = {"left": left, "left_identity": left_name, "right": right, "right_identity": right_name}
    images = {"pairs": 6000, "images": 7701, "detector": "mtcnn", "fallback": ["A/A_0001", "B/B_0002"]}
    return {
        **shared("recognition", split, degradation),
        "people": 3,
        "images": len(heldout),
        "pairs": 7600,
        "gate_far": 0.01,
        "baseline": {name: verification(0.8) for name in sets},
        "finetuned": {name: verification(0.9) for name in sets},
        "gain": {name: {"auc": gain(0.81, 0.91), "tar": gain(0.6, 0.7)} for name in sets if name != "lfw"},
        "gate": verdict("better on 3 held-out people: AUC 81.00 % → 91.00 %", "heldout auc", "AUC 81.00 % → 91.00 %"),
        "hardest": {kind: [pair | {"before": 0.3, "after": 0.5}] for kind in ("genuine", "impostor")},
        **({"lfw": images} if lfw else {}),
    }


def curves(evaluation: Json) -> dict[str, dict[str, Json]]:
    """roc.json of an evaluation of recognition."""
    curve = {"fmr": [0.0, 1e-6, 0.01, 0.1, 1.0], "tmr": [0.0, 0.4, 0.5, 0.8, 1.0], "threshold": [1, 0.8, 0.6, 0.4, 0]}
    models = [model for model in ("baseline", "champion", "finetuned") if model in evaluation]
    return {name: dict.fromkeys(models, curve) for name in evaluation["finetuned"]}


def complete(evaluation: Json) -> Json:
    """The same evaluation of recognition with all that it may lack, low resolution apart."""
    sets = list(evaluation["finetuned"])
    champion = {name: dict(evaluation["baseline"][name]) for name in sets}
    for name, figures in champion.items():
        figures["auc"] += (evaluation["finetuned"][name]["auc"] - figures["auc"]) / 2
    gains = {name: {"auc": gain(0.9, 0.95), "tar": gain(0.6, 0.7)} for name in sets} | evaluation["gain"]
    ratios = {"baseline": {"fmr": 2.5, "fnmr": 1.75}, "finetuned": {"fmr": None, "fnmr": 1.2}}
    every = {
        "auc": 0.8, "eer": 0.2, "genuine_pairs": 600, "impostor_pairs": 9_999_400, "tar_at_far": {},
    }  # fmt: skip
    model = evaluation["models"]["baseline"] | {"uri": "s3://models/sface/6", "heldout_people_trained_on": 2}
    return evaluation | {
        "champion": champion,
        "gain": {name: entry | {"accuracy": gain(0.8, 0.9)} for name, entry in gains.items()},
        "gain_over_champion": {
            name: {"auc": gain(0.86, 0.91), "tar": gain(0.65, 0.7), "accuracy": gain(0.85, 0.9)} for name in sets
        },
        "models": evaluation["models"] | {"champion": model},
        "paired": {
            name: {
                "mcnemar": {"only_before": 9, "only_after": 120, "p": 1.5e-22 if name == "heldout" else 0.0215},
                "forgotten": {"genuine": 4, "impostor": 5},
                "learned": {"genuine": 100, "impostor": 20},
            }
            for name in sets
        },
        "forgotten": _forgotten(evaluation),
        "probes": _probes(),
        "groups": {"sex": {"rows": _groups(), "worst_ratio": ratios}},
        "identification": {"heldout": _identification()},
        "calibration": _calibration(),
        "all_pairs": {"heldout": {"baseline": every, "finetuned": every | {"auc": 0.9, "eer": 0.1}}},
        "compatibility": COMPATIBILITY | {"old": "champion"},
        "histograms": dict.fromkeys(sets, _histograms()),
    }


def _forgotten(evaluation: Json) -> list[Json]:
    """Forgotten pairs: of each kind, of a .bin set, which has no names, and of LFW, whose names have slashes."""
    thresholds = {"threshold_before": 0.5, "after": 0.5}
    genuine, impostor = (
        evaluation["hardest"][kind][0]
        | thresholds
        | {"set": "heldout", "kind": kind, "before": before, "threshold_after": threshold}
        for kind, before, threshold in (("genuine", 0.7, 0.6), ("impostor", 0.3, 0.4))
    )
    pairs = [genuine, impostor, impostor | {"set": "cfp_fp", "left": "cfp_fp/7", "left_identity": ""}]
    names = {"set": "lfw", "left": "Ann_Lee/Ann_Lee_0001", "right": "Ann_Lee/Ann_Lee_0002"}
    return pairs + ([genuine | names] if "lfw" in evaluation["finetuned"] else [])


def _probes() -> list[Json]:
    return [
        {
            "probe": probe,
            "far": 0.01,
            "baseline": {"accuracy": 0.9 - fall, "auc": 0.95 - fall, "tar": 0.8 - fall},
            "finetuned": {"accuracy": 0.95 - fall, "auc": 0.98 - fall, "tar": 0.9 - fall / 2},
            "gain": {"auc": gain(0.95 - fall, 0.98 - fall), "tar": gain(0.8 - fall, 0.9 - fall / 2)},
        }
        for probe, fall in (("clean", 0.0), ("lowres:32", 0.02), ("lowres:14", 0.3), ("blur:4", 0.2), ("masked", 0.7))
    ]


def _groups() -> list[Json]:
    many = {"people": 12, "images": 120, "genuine": 540, "impostor": 6600, "baseline": {"fmr": 0.0012, "fnmr": 0.08}}
    few = {"people": 1, "images": 10, "genuine": 45, "impostor": 0, "baseline": {"fmr": None, "fnmr": None}}
    return [
        many | {"group": HOSTILE, "finetuned": {"fmr": 0.0009, "fnmr": 0.04}}
        | {"fnmr_change": -0.04, "fnmr_change_low": -0.07, "fnmr_change_high": -0.01},
        few | {"group": LONG, "finetuned": {"fmr": None, "fnmr": None}}
        | {"fnmr_change": None, "fnmr_change_low": None, "fnmr_change_high": None},
    ]  # fmt: skip


def _identification() -> Json:
    rates = {"gallery": 13, "probes": 117, "rank1": 0.91, "rank1_low": 0.85, "rank1_high": 0.97}
    rates |= {"rank5": 0.98, "rank5_low": 0.94, "rank5_high": 1.0}
    unknown = {"enrolled": 6, "known_probes": 54, "unknown_probes": 70, "fnir_at_fpir": {"0.1": 0.123}}
    return {
        "baseline": rates | {"rank1": 0.7, "rank1_low": 0.6, "rank1_high": 0.8, "open": unknown},
        "finetuned": rates | {"open": unknown | {"fnir_at_fpir": {"0.1": 0.045}}},
    }


CALIBRATION = {
    "asked_fmr": 0.001, "fmr": 0.001, "threshold": 0.412, "threshold_low": 0.38, "threshold_high": 0.45, "fnmr": 0.082,
    "impostor_pairs": 7800, "genuine_pairs": 585, "people": 13, "slope": 21.5, "intercept": -8.25, "supported": True,
}  # fmt: skip
COMPATIBILITY: Json = {
    "old": "baseline", "comparable": True, "reason": None, "stays": False, "threshold": 0.83,
    "old_with_old": 0.4, "new_with_new": 0.9,
    "old_gallery_new_probe": 0.21, "old_gallery_new_probe_low": 0.12, "old_gallery_new_probe_high": 0.3,
    "match_change": -0.19, "match_change_low": -0.28, "match_change_high": -0.1,
    "false_matches": 0.0002, "genuine_pairs": 585, "people": 13, "gallery_still_matched": 0.23,
}  # fmt: skip


def _calibration() -> Json:
    unsupported = {"threshold": 0.83, "asked_fmr": 0.0001, "fmr": 0.0004, "supported": False}
    return {
        "baseline": CALIBRATION | unsupported,
        "finetuned": CALIBRATION,
        "champion": CALIBRATION | {"threshold": 0.55},
    }


def _histograms() -> Json:
    edges = np.linspace(-1, 1, 61)
    middles = (edges[:-1] + edges[1:]) / 2

    def bell(centre: float, width: float, pairs: int) -> list[int]:
        return [int(pairs * math.exp(-(((middle - centre) / width) ** 2))) for middle in middles]

    return {
        model: {"edges": edges.tolist(), "genuine": bell(centre, 0.15, 90), "impostor": bell(centre - far, 0.1, 1500)}
        for model, centre, far in (("baseline", 0.75, 0.15), ("finetuned", 0.65, 0.5))
    }


def resolutions(paired: bool = False, network: bool = True) -> Json:
    """What an evaluation holds of low resolution.

    Args:
        paired: a camera took the faces; else they were made.
        network: a super-resolution network enlarged those that were made.
    """
    enlarged = network and not paired
    rows = []
    for size, level in (("10", 0.6), ("14", 0.7), ("20", 0.8), ("clean", 0.93)):
        low = size != "clean"
        rank1 = {model: level + by for model, by in (("baseline", -0.1), ("finetuned", 0.04))}
        rank1 |= {"bicubic": level - 0.2} if enlarged and low else {}
        rows.append(
            {
                "size": size, "images": 120, "people": 12, "probes": 108, "rank1": rank1,
                "cross": _resolution_pairs(level, enlarged and low),
                "same": _resolution_pairs(level - 0.05 * low, enlarged and low),
            }
        )  # fmt: skip
    return {
        "low_resolution": {
            "paired": paired,
            "alone": 2 if paired else 0,
            "superresolver": "edsr.onnx@12ab34cd56ef" if enlarged else "bicubic",
        },
        "resolutions": {
            "fmr": 0.001, "threshold": 0.3612, "threshold_flip": 0.3498, "rows": rows,
            "left_out": [{"size": "28", "images": 3}],
        },
    }  # fmt: skip


def _resolution_pairs(level: float, bicubic: bool) -> Json:
    """Figures of a size; with those of crops that bicubic interpolation enlarged."""

    def figures(level: float) -> Json:
        measured = {
            "accuracy": level, "accuracy_standard_error": 0.004, "accuracy_fixed": level - 0.05,
            "tmr_fixed": level - 0.3, "fmr_fixed": 0.001, "auc": level + 0.02, "tar": level - 0.2,
        }  # fmt: skip
        return measured | {"flip": measured | {"tar": level - 0.19}}

    def over(before: Json, after: Json) -> Json:
        bounds = {"before_low": (before, -0.04), "before_high": (before, 0.03), "after_low": (after, -0.03)}
        bounds |= {"after_high": (after, 0.02)}
        return {
            name: gain(before[name], after[name]) | {bound: side[name] + by for bound, (side, by) in bounds.items()}
            for name in ("auc", "tar", "accuracy", "accuracy_fixed")
        }

    models = {"baseline": figures(level), "finetuned": figures(level + 0.06)}
    pairs = {"pairs": 7000, "far": 0.01, **models, "gain": over(models["baseline"], models["finetuned"])}
    if bicubic:
        enlarged = figures(level - 0.05)
        pairs |= {"bicubic": enlarged, "gain_over_bicubic": over(enlarged, models["finetuned"])}
    return pairs


def numbers(count: int, low: float, high: float) -> list[float]:
    """So many shares between two, the same each time, up and down."""
    return [round(low + (high - low) * (math.sin(1.7 * number) + 1) / 2, 4) for number in range(count)]


def attribute_figures(labels: list[str], level: float) -> Json:
    """Figures of one model on one set of attributes; the last label has too few images."""
    by_label: Json = {}
    for number, (label, value) in enumerate(zip(labels, numbers(len(labels), level - 0.1, level), strict=True)):
        few = number == len(labels) - 1
        by_label[label] = {
            **{name: None if few else value - index / 100 for index, name in enumerate(ATTRIBUTE_FIGURES)},
            "positives": 2 if few else 10 + number,
            "negatives": 1200 - number,
            "threshold": None if few else 0.4,
            "auc_low": None if few else value - 0.04,
            "auc_high": None if few else value + 0.03,
            "too_few": few,
        }
    means = {name: level - index / 100 for index, name in enumerate(ATTRIBUTE_FIGURES)}
    return {**means, "labels": by_label, "measured_labels": len(labels) - 1, "images": 1210}


def class_figures(labels: list[str], level: float) -> Json:
    """Figures of one model on one set of classes."""
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


def labelled(
    task: str, labels: list[str], heldout: Sequence[tuple[str, str]], base: Json, others: Mapping[str, float]
) -> Json:
    """An evaluation of attributes or classes.

    Args:
        task: attributes or classes.
        labels: names of the labels or classes.
        heldout: image_id and identity of the held-out images.
        base: from `shared`.
        others: models beside the starting and the fine-tuned one, with the level of their figures.
    """
    figures: Callable[[list[str], float], Json] = attribute_figures if task == "attributes" else class_figures
    sets = ["heldout", *(["heldout_clean"] if base["degradation"] != "none" else [])]
    models = {"baseline": 0.84, "finetuned": 0.93} | dict(others)
    measured = {model: {name: figures(labels, level) for name in sets} for model, level in models.items()}

    def over(model: str) -> Json:
        return {
            name: {key: gain(measured[model][name][key], measured["finetuned"][name][key]) for key in GAINED[task]}
            for name in sets
        }

    reason = f"better on {len(heldout)} held-out images (3 people): 84.00 % → 93.00 %"
    return {
        **base,
        "people": 3 if task == "attributes" else len(labels),
        "images": len(heldout),
        "labels": labels,
        **measured,
        "gain": over("baseline"),
        **{f"gain_over_{model}": over(model) for model in others},
        "gate": verdict(reason, f"heldout {GAINED[task][0]}", "84.00 % → 93.00 %"),
        "sampling": {
            "images": 900,
            "drawn": 1200,
            "before": {label: 10 + 3 * number for number, label in enumerate(labels)},
            "after": {label: 120 + number for number, label in enumerate(labels)},
        },
        "chosen_on": {"split": "val", "images": 210},
        **_predictions(task, labels, heldout),
        **(_of_attributes(labels, models) if task == "attributes" else {}),
    }


def _of_attributes(labels: list[str], models: Mapping[str, float]) -> Json:
    """What attributes have and classes have not: correlation and thresholds."""
    phi: list[list[float | None]] = [list(numbers(len(labels), -0.6, 0.9)) for _ in labels]
    for row in range(len(labels)):
        phi[row][-1] = phi[-1][row] = None  # a label that is constant
    return {
        "correlation": {"labels": labels, "true": phi, "predicted": phi},
        "thresholds": {model: dict.fromkeys(labels, 0.4) for model in models},
    }


def _predictions(task: str, labels: list[str], heldout: Sequence[tuple[str, str]]) -> Json:
    """Photographs with their predictions, and the worst mistakes."""
    predictions: list[tuple[list[str], list[str]]]
    if task == "attributes":
        predictions = [(labels[:3], [labels[0], labels[1], labels[-2]]), ([], [])]
        wrong: Json = {"label": labels[1], "true": 0, "predicted": 1, "score": 0.987}
        missed: Json = {"label": labels[2], "true": 1, "predicted": 0, "score": 0.004}
    else:
        predictions = [(labels[:1], labels[:1]), (labels[:1], labels[1:2]), (labels[:1], [])]
        wrong = {"label": None, "true": labels[0], "predicted": labels[1], "score": 0.987}
        missed = {"label": None, "true": labels[0], "predicted": None, "score": 0.31}
    images = [{"image_id": image_id, "source": f"{name}/0.png"} for image_id, name in heldout]
    return {
        "grid": [
            {"file": f"grid/{number:03}.png", "true": true, "predicted": predicted, "right": true == predicted}
            | images[number % len(images)]
            for number, (true, predicted) in enumerate(predictions * 2)
        ],
        "mistakes": [
            {"file": f"mistakes/{number:03}.png"} | entry | images[number]
            for number, entry in enumerate((wrong, missed))
        ],
    }
