"""The published model as the folder that finetune leaves, made once for the tests of inference."""

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from components.faces.folders import read_json, sha256_file, write_json
from components.faces.model import load_pretrained, save_model
from components.finetune.export import export_onnx
from components.finetune.mtcnn_export import export_mtcnn

CALIBRATION = {
    "threshold": 0.3,
    "threshold_low": 0.27,
    "threshold_high": 0.33,
    "fmr": 0.001,
    "slope": 20.0,
    "intercept": -6.0,
    "fnmr": 0.02,
}


_HOME = TemporaryDirectory(prefix="kubeface-exported-")  # goes with the process


@cache
def exported() -> Path:
    """model.json, model.safetensors, model.onnx and mtcnn.zip of the published weights, not calibrated."""
    folder = Path(_HOME.name)
    model = load_pretrained("sface")
    crops = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    export_onnx(model, folder / "model.onnx", crops)
    export_mtcnn(folder / "mtcnn.zip")
    checksums = {"sha256": sha256_file(folder / "model.onnx"), "mtcnn_sha256": sha256_file(folder / "mtcnn.zip")}
    save_model(model, folder, {"onnx": checksums})
    return folder


def copied(folder: Path, to: Path) -> Path:
    """A copy of a model folder that a test may spoil."""
    return Path(shutil.copytree(folder, to))


def calibrated(folder: Path, **changes: Any) -> Path:
    """The folder with a threshold.json beside the model."""
    weights = read_json(folder / "model.json")["weights_sha256"]
    (folder / "threshold.json").write_text(json.dumps({"weights_sha256": weights} | CALIBRATION | changes))
    return folder


def configured(folder: Path, **changes: Any) -> Path:
    """The folder with another model.json; a change of None takes the entry out."""
    config = read_json(folder / "model.json") | changes
    write_json(folder / "model.json", {key: value for key, value in config.items() if value is not None})
    return folder
