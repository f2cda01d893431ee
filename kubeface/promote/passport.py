"""The passport of a version: what it was made of and with, and the SHA-256 of each of its files."""

import json
import os
import platform
import tempfile
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from kubeface import __version__
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage import objects
from kubeface.storage.folders import sha256_file

PASSPORT_FILE = "passport.json"
# Those of all tasks; a model has the ones of its own.
MAIN_FIGURES = (
    "accuracy", "accuracy_standard_error", "auc", "eer", "tar_at_far", "genuine_pairs", "impostor_pairs",
    "average_precision", "f1", "macro_f1", "balanced_accuracy", "log_loss", "calibration_error", "measured_labels",
    "images",
)  # fmt: skip
MODELS = ("baseline", "finetuned", "champion", "scratch")
LIBRARIES = ("minio", "pydantic", "urllib3")  # those that promote works with; the other steps tell theirs


def passport(
    name: str,
    config: dict[str, Any],
    evaluation: dict[str, Any],
    data: dict[str, Any],
    sources: dict[str, Path],
    files: list[Path],
) -> dict[str, Any]:
    """What a run was made of; equal runs give equal passports.

    Args:
        name: of the model.
        config: model.json.
        evaluation: evaluation.json.
        data: what gather and audit found in the images; empty where they were not asked.
        sources: files whose SHA-256 says which data the run saw, by name.
        files: every file of the version but the passport.

    Returns:
        producer, name, images (the containers' by step, null where nobody said), data (SHA-256), seed, settings,
        versions (of libraries by step), start (name, licence and SHA-256 of the starting weights), superresolution
        (name, scale and SHA-256 of the network, where the model has one), metrics, erasure_marks (how many), files
        (sha256 and bytes by name).
    """
    training, network = config["training"], config.get("superresolution")
    return {
        "producer": f"promote {__version__}",
        "name": name,
        "images": {
            "finetune": training.get("image"),
            "evaluate": evaluation.get("image"),
            "promote": os.environ.get("KUBEFACE_IMAGE") or None,
        },
        "data": {
            "aligned": training.get("aligned"),
            "split": training.get("split"),
            **{source: sha256_file(path) for source, path in sources.items()},
        },
        "seed": training.get("seed"),
        "settings": {
            "training": {key: value for key, value in training.items() if key not in ("versions", "image")},
            "evaluation": evaluation.get("settings", {}),
        },
        "versions": {
            "finetune": training.get("versions", {}),
            "evaluate": evaluation.get("versions", {}),
            "promote": {
                "python": platform.python_version(),
                **{library: installed(library) for library in LIBRARIES},
            },
        },
        "start": {
            "name": config["start"],
            "license": config["start_license"],
            "sha256": training.get("start_sha256"),
        },
        **({"superresolution": {key: network[key] for key in ("name", "scale", "sha256")}} if network else {}),
        "metrics": {
            "gate": evaluation["gate"],
            "gain": evaluation["gain"],
            **{
                model: {
                    kind: {key: figures[key] for key in MAIN_FIGURES if key in figures}
                    for kind, figures in evaluation[model].items()
                }
                for model in MODELS
                if evaluation.get(model)
            },
        },
        "erasure_marks": len((data.get("erasure") or {}).get("marks", [])),
        "files": {file.name: {"sha256": sha256_file(file), "bytes": file.stat().st_size} for file in files},
    }


def differences(uri: str) -> list[str]:
    """What of a version is not as its passport has it, in words; nothing where it is whole.

    Each file is fetched and measured, one at a time.

    Args:
        uri: folder or prefix of the version.

    Raises:
        KubefaceError: the passport is none, or the store refuses or does not answer.
    """
    place = objects.join(uri, PASSPORT_FILE)
    if not objects.exists(place):
        return [f"{PASSPORT_FILE} is missing"]
    try:
        files = {name: str(entry["sha256"]) for name, entry in json.loads(objects.read_bytes(place))["files"].items()}
        if any("/" in name for name in files):
            raise ValueError("a file of a version stands beside its passport")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise KubefaceError(f"{place} is no passport: promote the model again") from None
    return [wrong for name, sha256 in sorted(files.items()) if (wrong := _difference(uri, name, sha256))]


def _difference(uri: str, name: str, sha256: str) -> str:
    if not objects.exists(objects.join(uri, name)):
        return f"{name} is missing"
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "file")
        objects.download(objects.join(uri, name), copy)
        found = sha256_file(copy)
    return "" if found == sha256 else f"{name} has SHA-256 {found[:12]}…, its passport says {sha256[:12]}…"


def verify(uri: str, /) -> dict[str, Any]:
    """Compares every file of a version with the SHA-256 in its passport.

    Args:
        uri: Folder or s3:// prefix of the version.

    Returns:
        uri, whole (True).

    Raises:
        KubefaceError: something differs; each file is named.
    """
    found = differences(uri)
    require(not found, f"{uri} is not as it was promoted: {'; '.join(found)}")
    print(f"promote: {uri} is as it was promoted", flush=True)
    return {"uri": uri, "whole": True}
