"""The published model as the folder that finetune leaves, made once for the tests of inference."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from kubeface.faces.mtcnn_networks import write_mtcnn
from kubeface.finetune.export import export_onnx
from kubeface.models.model import FaceModel, load_pretrained, save_model
from kubeface.records.model import OnnxRecord, TrainingRecord
from kubeface.storage.folders import read_json, sha256_file, write_json
from tests.support.json_files import edit
from tests.support.shared import made_once

CALIBRATION: dict[str, Any] = {
    "threshold": 0.3,
    "threshold_low": 0.27,
    "threshold_high": 0.33,
    "fmr": 0.001,
    "slope": 20.0,
    "intercept": -6.0,
    "fnmr": 0.02,
}


def saved(model: FaceModel, folder: Path) -> Path:
    """model.json, model.safetensors and model.onnx of a model."""
    crops = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    export_onnx(model, folder / "model.onnx", crops)
    save_model(model, folder, TrainingRecord(onnx=OnnxRecord(sha256=sha256_file(folder / "model.onnx"))))
    return folder


def trained(start: Path, end: Path, to: Path) -> Path:
    """A folder of finetune that says that its model, the one of `end`, was trained from the one of `start`."""
    for name in ("model.onnx", "model.safetensors", "model.json"):
        shutil.copyfile(end / name, to / name)
    shutil.copyfile(start / "model.onnx", to / "start.onnx")
    its, config = (read_json(folder / "model.json") for folder in (start, end))
    onnx = {"sha256": sha256_file(to / "model.onnx"), "start": {"sha256": sha256_file(to / "start.onnx")}}
    training = {"backbone": "sface", "pretrained": "", "start_sha256": its["weights_sha256"], "onnx": onnx}
    write_json(to / "model.json", config | {"training": training})
    write_json(to / "identities.json", [])
    return to


def exported() -> Path:
    """model.json, model.safetensors, model.onnx and mtcnn.zip of the published weights, not calibrated."""
    return made_once("exported", _export)


def _export(folder: Path) -> None:
    folder.mkdir()
    saved(load_pretrained("sface"), folder)
    write_mtcnn(folder / "mtcnn.zip")
    sha256 = sha256_file(folder / "mtcnn.zip")
    edit(folder / "model.json", lambda config: config["training"]["onnx"].update(mtcnn_sha256=sha256))


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
