"""An exported model: aligned crops in, embeddings out, or scores of labels or classes, on onnxruntime alone.

A model folder of finetune, or a promoted version, holds

    model.json    what the model is, and the SHA-256 of the files that it was exported to
    model.onnx    the model, as it is measured and as it is served
    start.onnx    the model that it was trained from, for evaluate; not in a promoted version
    labels.json   names of the labels or classes, in the order of the scores, where the model has such
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from kubeface.faces.geometry import TEMPLATE_SIZES, require_template
from kubeface.models.embeddings import Vectors
from kubeface.records.model import ModelRecord, StartOnnxRecord
from kubeface.records.tasks import RECOGNITION
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.workers import in_order
from kubeface.storage import objects
from kubeface.storage.downloads import fetch
from kubeface.storage.folders import read_json, sha256_file

CONFIG_FILE, MODEL_FILE, START_FILE, LABELS_FILE = "model.json", "model.onnx", "start.onnx", "labels.json"
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
GPU_BATCH = 64  # crops that a GPU takes together


@dataclass(frozen=True)
class OnnxModel:
    """A network with what model.json says of it; several threads may use it at once.

    A processor takes crops one at a time, `threads` of them at once and each in one thread. So an embedding has the
    same bits whoever asks for it, alone or among others, and the network's maps fit into the processor's cache: batches
    of 16 and 64 were slower.
    """

    backbone: str
    template: str
    weights_sha256: str
    sha256: str  # of the .onnx file
    session: onnxruntime.InferenceSession
    batch: int = 1
    threads: int = 1
    labels: tuple[str, ...] = ()  # of attributes or classes, in the order of the scores

    def embed(self, crops: NDArray[np.uint8], flip: bool = False) -> Vectors:
        """Unit-length embeddings (N×D) of RGB crops (N×H×W×3, uint8), N ≥ 1, of their mirror images with `flip`."""
        return self._parts(crops[:, :, ::-1] if flip else crops, "embeddings")

    def scores(self, crops: NDArray[np.uint8]) -> Vectors:
        """Scores of the labels or classes (N×L, 0 to 1) of RGB crops (N×H×W×3, uint8), N ≥ 1."""
        return self._parts(crops, "scores")

    def _parts(self, crops: NDArray[np.uint8], output: str) -> Vectors:
        def run(part: NDArray[np.uint8]) -> Vectors:
            images = np.ascontiguousarray(part.transpose(0, 3, 1, 2), np.float32)
            return np.asarray(self.session.run([output], {"crops": images})[0], np.float32)

        parts = [crops[start : start + self.batch] for start in range(0, len(crops), self.batch)]
        if len(parts) == 1 or self.threads == 1:
            return np.concatenate([run(part) for part in parts])
        return np.concatenate(list(in_order(run, parts, self.threads)))


def open_model(uri: str, device: str = "auto", threads: int = 0) -> OnnxModel:
    """Opens the model of a folder of finetune or a promoted version, a path or s3:// address.

    Args:
        device: auto, cpu or cuda; auto takes the GPU where onnxruntime's build for CUDA finds one.
        threads: crops that are embedded at once on a CPU; 0 for one on each processor.

    Raises:
        KubefaceError: files missing or changed, an unknown template, or a device that is not there.
    """
    record = read_model_record(uri)
    without = f"{uri} was fine-tuned without ONNX, which is what runs without torch: fine-tune with --onnx"
    return _open(uri, record, MODEL_FILE, record.training.onnx, without, device, threads)


def open_start(uri: str, device: str = "auto", threads: int = 0) -> OnnxModel:
    """Opens start.onnx, the model that the one of a finetune folder was trained from; otherwise as `open_model`."""
    record = read_model_record(uri)
    start = record.training.onnx.start if record.training.onnx else None
    without = f"{uri} has no {START_FILE}, the model that it was trained from: fine-tune again, with --onnx"
    return _open(uri, record, START_FILE, start, without, device, threads)


def read_model_record(uri: str) -> ModelRecord:
    """model.json of a folder, a path or s3:// address.

    Raises:
        KubefaceError: it is missing, no JSON, or describes no model.
    """
    path = file_of(uri, CONFIG_FILE)
    try:
        return ModelRecord.read(path)
    except KubefaceError as error:
        what = f"{objects.join(uri, CONFIG_FILE)} describes no model"
        raise KubefaceError(f"{what}: give a folder of finetune or a promoted version ({error})") from error


def file_of(uri: str, name: str, sha256: str = "") -> Path:
    """A local path to a file of a model folder.

    Raises:
        KubefaceError: it is not there, or not the one that model.json describes.
    """
    address = objects.join(uri, name)
    require(
        objects.exists(address), f"{address} does not exist: give --model a folder of finetune, or a promoted version"
    )
    if objects.is_s3(uri):
        return fetch(f"{address}#sha256={sha256}" if sha256 else address)
    path = objects.local_path(address)
    require(
        not sha256 or sha256_file(path) == sha256,
        f"{path} is not the file that model.json describes: copy the model folder anew",
    )
    return path


def _open(
    uri: str, record: ModelRecord, name: str, exported: StartOnnxRecord | None, without: str, device: str, threads: int
) -> OnnxModel:
    sha256 = exported.sha256 if exported else ""
    require(bool(sha256), without)
    template = record.alignment.template
    require_template(template)
    session = _session(file_of(uri, name, sha256), device)
    side, takes = TEMPLATE_SIZES[template], session.get_inputs()[0].shape
    require(
        list(takes[1:]) == [3, side, side],
        f"{objects.join(uri, name)} takes crops of {takes[1:]}, the model's template gives 3×{side}×{side}: "
        "fine-tune anew",
    )
    batch, threads = (GPU_BATCH, 1) if session.get_providers()[0] == CUDA else (1, threads or cpu_limit())
    labels = () if record.task == RECOGNITION else tuple(read_json(file_of(uri, LABELS_FILE)))
    return OnnxModel(record.backbone, template, record.weights_sha256, sha256, session, batch, threads, labels)


def _session(path: Path, device: str) -> onnxruntime.InferenceSession:
    """The network on a device.

    TensorFloat-32, onnxruntime's default on a GPU, keeps 10 bits of a factor: the similarities would not be those of
    a CPU.
    """
    require(device in ("auto", "cpu", "cuda"), f"device '{device}' is unknown: use auto, cpu or cuda")
    offered = CUDA in onnxruntime.get_available_providers()
    require(
        offered or device != "cuda",
        "device 'cuda' is asked for but this onnxruntime runs on CPUs alone: install onnxruntime-gpu in its place (the "
        "extra evaluate-gpu), or use device auto",
    )
    providers: list[Any] = [CPU]
    if offered and device != "cpu":
        onnxruntime.preload_dlls()  # CUDA's and cuDNN's libraries out of their wheels
        providers.insert(0, (CUDA, {"use_tf32": "0"}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    require(
        device != "cuda" or session.get_providers()[0] == CUDA,
        "device 'cuda' is asked for but onnxruntime finds no GPU: request one or use device auto",
    )
    return session
