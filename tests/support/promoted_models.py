"""Folders of finetune and evaluate as promote reads them."""

import json
from pathlib import Path
from typing import Any

from kubeface.storage.folders import sha256_file
from tests.support.evaluations import attribute_figures, class_figures

FIGURES: dict[str, Any] = {
    "accuracy": 0.98,
    "accuracy_standard_error": 0.002,
    "auc": 0.991,
    "eer": 0.04,
    "tar_at_far": {"0.1": 0.97, "0.01": 0.9},
    "genuine_pairs": 585,
    "impostor_pairs": 7800,
}


def entry(before: float, after: float) -> dict[str, float]:
    """A gain with its interval."""
    gain = after - before
    return {"before": before, "after": after, "gain": gain, "gain_low": gain - 0.01, "gain_high": gain + 0.02}


LABELS = ["Eyeglasses", "Male|", "Smiling"]


def labelled(task: str, better: bool, scratch: bool = False) -> dict[str, Any]:
    """An evaluation of attributes or classes; the last label has too few images."""
    figures = attribute_figures if task == "attributes" else class_figures
    models = {"baseline": 0.84, "finetuned": 0.93} | ({"scratch": 0.7} if scratch else {})
    measured = {model: {"heldout": figures(LABELS, level)} for model, level in models.items()}
    key = "auc" if task == "attributes" else "accuracy"

    def over(model: str) -> dict[str, Any]:
        return {"heldout": {key: entry(measured[model]["heldout"][key], measured["finetuned"]["heldout"][key])}}

    return {
        "task": task,
        **measured,
        "labels": LABELS,
        "gain": over("baseline"),
        **({"gain_over_scratch": over("scratch")} if scratch else {}),
        "gate": {"better": better, "reason": f"{'better' if better else 'not better'} on 130 held-out images"},
        "degradation": "noise:60",
        "people": 13,
        "images": 130,
        "chosen_on": {"split": "val", "images": 60},
        **({"thresholds": {"finetuned": dict.fromkeys(LABELS, 0.4)}} if task == "attributes" else {}),
    }


def make(
    folder: Path, better: bool, weights: bytes = b"weights", task: str = "recognition", **further: Any
) -> tuple[Path, Path]:
    """A model folder and an evaluation folder.

    Args:
        folder: where to; made.
        better: verdict of the gate.
        weights: content of model.safetensors.
        task: of the model; of attributes and classes it has a head and labels too.
        further: entries of evaluation.json.
    """
    model, evaluation = folder / "model", folder / "evaluation"
    for path in (model, evaluation):
        path.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(weights)
    (model / "identities.json").write_text('["a", "b"]')
    config: dict[str, Any] = {
        "backbone": "sface",
        "embedding_size": 128,
        "preprocessing": {"size": 112, "color_order": "rgb", "mean": 127.5, "std": 128.0},
        "alignment": {"template": "arcface_112", "size": 112},
        "start": "somewhere#sha256=12ab",
        "start_license": "Apache-2.0",
        "weights_sha256": sha256_file(model / "model.safetensors"),
        "training": {
            "images": 216,
            "identities": 27,
            "degradation": "noise:60",
            "aligned": "a1" * 32,
            "split": "b2" * 32,
            "start_sha256": "c3" * 32,
            "seed": 4,
            "lr": 0.0001,
            "versions": {"torch": "2.14.1"},
        },
    }
    if task != "recognition":
        config["task"] = task
        (model / "labels.json").write_text(json.dumps(LABELS))
        (model / "head.safetensors").write_bytes(b"head")
    (model / "model.json").write_text(json.dumps(config))
    measured: dict[str, Any] = {
        "baseline": {"heldout": FIGURES | {"auc": 0.85}},
        "finetuned": {"heldout": FIGURES, "lfw": FIGURES | {"tar_at_far": {"0.001": 0.98}}},
        "gain": {"heldout": {"auc": entry(0.85, 0.991)}},
        "gate": {"better": better, "reason": f"{'better' if better else 'not better'} on 13 held-out people: AUC"},
        "gate_far": 0.01,
        "degradation": "noise:60",
        "people": 13,
        "images": 130,
        "pairs": 8385,
    }
    measured["baseline"]["lfw"] = measured["finetuned"]["lfw"]
    if task != "recognition":
        measured = labelled(task, better, scratch=task == "classes")
    (evaluation / "evaluation.json").write_text(json.dumps(measured | further))
    return model, evaluation
