"""Folders of finetune and evaluate as promote reads them."""

import json
from pathlib import Path
from typing import Any

from kubeface.records.data import DataRecord, Erasure
from kubeface.storage.folders import sha256_file
from tests.support.evaluations import Json, labelled, shared, verdict

LABELS = ["Eyeglasses", "Male|", "Smiling"]
FIGURES: Json = {
    "accuracy": 0.98,
    "accuracy_standard_error": 0.002,
    "threshold": 0.4,
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


def evaluation_of(task: str, better: bool, weights_sha256: str) -> Json:
    """An evaluation; of labels the last one has too few images."""
    models = ("baseline", "finetuned", *(["scratch"] if task == "classes" else []))
    base = shared(task, "b2" * 32, "noise:60", models)
    base["models"] = {model: {**told, "weights_sha256": weights_sha256} for model, told in base["models"].items()}
    if task == "recognition":
        lfw = FIGURES | {"tar_at_far": {"0.001": 0.98}}
        return base | {
            "baseline": {"heldout": FIGURES | {"auc": 0.85}, "lfw": lfw},
            "finetuned": {"heldout": FIGURES, "lfw": lfw},
            "gain": {"heldout": {"auc": entry(0.85, 0.991)}},
            "gate": verdict(f"{'better' if better else 'not better'} on 13 held-out people: AUC", "auc", "AUC", better),
            "gate_far": 0.01,
            "people": 13,
            "images": 130,
            "pairs": 8385,
            "hardest": {"genuine": [], "impostor": []},
        }
    heldout = [(f"{number:016x}", f"person {number}") for number in range(3)]
    measured = labelled(task, LABELS, heldout, base, {"scratch": 0.7} if task == "classes" else {})
    key = "auc" if task == "attributes" else "accuracy"
    for name in ("gain", *(["gain_over_scratch"] if task == "classes" else [])):
        before, after = (measured[name]["heldout"][key][side] for side in ("before", "after"))
        measured[name] = {"heldout": {key: entry(before, after)}}
    reason = f"{'better' if better else 'not better'} on 130 held-out images"
    return measured | {
        **{model: {"heldout": measured[model]["heldout"]} for model in models},
        "gate": verdict(reason, key, key, better),
        "people": 13,
        "images": 130,
        "chosen_on": {"split": "val", "images": 60},
    }


def write_data(folder: Path, **erasure: Any) -> tuple[Path, Path]:
    """The folders of gather and audit with their data.json."""
    gathered, audited = folder / "gathered", folder / "audited"
    for path in (gathered, audited):
        path.mkdir(parents=True)
    DataRecord(
        producer="gather 0.1.0",
        images=130,
        identities=13,
        rejected={},
        shards={"0/1": "f"},
        changed_shards=[],
        erasure=Erasure(**erasure),
    ).write(gathered / "data.json")
    (audited / "data.json").write_text(json.dumps({"drift": {"worst": 1}}))
    return gathered, audited


def make(
    folder: Path, better: bool, weights: bytes = b"weights", task: str = "recognition", **further: Any
) -> tuple[Path, Path]:
    """A model folder and an evaluation folder below a new folder, with the verdict of the gate, the content of
    model.safetensors and further entries of evaluation.json; a model of attributes or classes has a head and labels
    too."""
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
    measured = evaluation_of(task, better, config["weights_sha256"]) | further
    (evaluation / "evaluation.json").write_text(json.dumps(measured))
    return model, evaluation
