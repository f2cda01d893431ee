"""Models as ONNX, and the proof that they are the same models."""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn
from torch.nn.functional import conv2d, normalize, prelu, relu

from kubeface.models.model import FaceModel
from kubeface.records.model import OnnxRecord, StartOnnxRecord
from kubeface.runtime.errors import require
from kubeface.storage.folders import sha256_file

OPSET = 18
LEAST_COSINE = 0.9999
LARGEST_GAP = 1e-3  # between the scores (0…1) that torch and onnxruntime give; thresholds are not told finer
MODEL_FILE, START_FILE = "model.onnx", "start.onnx"


class Embedder(nn.Module):
    """Preparation, network and normalisation in one: RGB crops in, unit-length embeddings out, and a head's scores.

    The head makes scores (N×L, 0…1) of embeddings as the network gives them; without one there are embeddings alone.
    """

    def __init__(self, model: FaceModel, head: nn.Module | None = None) -> None:
        super().__init__()
        self.network, self._prepare = model.network, model.prepare
        self.head = head

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        """Embeddings N×D (length 1) of crops N×3×S×S, RGB 0…255, float32; with a head the scores behind them."""
        embeddings = self.network(self._prepare(crops))
        return (normalize(embeddings), *([self.head(embeddings)] if self.head is not None else []))


class SplitPReLU(nn.Module):
    """PReLU of maps as onnxruntime runs it fast on a CPU: relu(x) − slope · relu(−x), products as 1×1 convolutions.

    Its kernel of PRelu breaks up the blocked layout (NCHWc) of the maps between convolutions, additions and ReLUs
    (onnxruntime/core/optimizer/nchwc_transformer.cc): without it SFace is twice as fast.
    """

    def __init__(self, slopes: Tensor) -> None:
        super().__init__()
        self.slopes = nn.Parameter(slopes.detach())

    def forward(self, images: Tensor) -> Tensor:
        """As PReLU; other things than maps N×C×H×W are left to it."""
        if images.dim() != 4:
            return prelu(images, self.slopes)
        channels = images.shape[1]
        slopes = self.slopes.expand(channels)[:, None, None, None]
        below = relu(conv2d(images, -torch.ones_like(slopes), groups=channels))
        return relu(images) + conv2d(below, -slopes, groups=channels)


def split_prelus(module: nn.Module) -> None:
    """Puts a SplitPReLU in the place of each PReLU inside a network of convolutions."""
    for name, child in module.named_children():
        if isinstance(child, nn.PReLU):
            setattr(module, name, SplitPReLU(child.weight))
        else:
            split_prelus(child)


def export_models(
    model: FaceModel,
    start: FaceModel,
    folder: Path,
    faces: NDArray[np.uint8],
    heads: tuple[nn.Module, nn.Module] | None = None,
) -> OnnxRecord:
    """Writes model.onnx, and start.onnx with which evaluate compares it; returns what model.json says of them.

    Args:
        model, start: the fine-tuned one, and the one it was trained from.
        faces: as `export_onnx` has them.
        heads: of each model.

    Raises:
        KubefaceError: as `export_onnx`.
    """
    own, begun = (
        Embedder(one, head).cpu().eval() for one, head in zip((model, start), heads or (None, None), strict=True)
    )
    program = _trace(own, faces)
    # Tracing takes most of the time, and most models differ from their start in nothing but their weights.
    of_start = _with_weights(program, begun) if _shapes(begun) == _shapes(own) else _trace(begun, faces)
    record = _save(program, own, folder / MODEL_FILE, faces)
    start_record = _save(of_start, begun, folder / START_FILE, faces)
    return OnnxRecord(**record.model_dump(), opset=OPSET, faces=len(faces), start=start_record)


def export_onnx(
    model: FaceModel, path: Path, faces: NDArray[np.uint8], head: nn.Module | None = None
) -> StartOnnxRecord:
    """Writes the model as ONNX, input `crops` (N×3×S×S, RGB 0…255, float32), output `embeddings` (N×D, length 1).

    Args:
        faces: real crops (N×S×S×3, uint8) to check it on, of the size that the model's template has; at least 1.
        head: makes a second output, `scores` (N×L, 0…1), of embeddings (N×D, not of unit length).

    Raises:
        KubefaceError: torch and onnxruntime differ by more than LEAST_COSINE or LARGEST_GAP allow.
    """
    embedder = Embedder(model, head).cpu().eval()
    return _save(_trace(embedder, faces), embedder, path, faces)


def _onnx_form(embedder: Embedder) -> Embedder:
    """A copy as onnxruntime runs it fast."""
    fast = copy.deepcopy(embedder)
    split_prelus(fast)
    return fast


def _trace(embedder: Embedder, faces: NDArray[np.uint8]) -> torch.onnx.ONNXProgram:
    """The graph with its weights as they are: nothing folded into constants yet."""
    two = _tensor(faces[[0, -1]])  # maybe the same one twice: traced with one, the graph would take no other number
    outputs = ["embeddings", *(["scores"] if embedder.head is not None else [])]
    with quiet():
        program = torch.onnx.export(
            _onnx_form(embedder), (two,), dynamo=True, opset_version=OPSET, external_data=False, optimize=False,
            input_names=["crops"], output_names=outputs, dynamic_shapes={"crops": {0: torch.export.Dim("n")}},
        )  # fmt: skip
    assert program is not None  # noqa: S101 - None is for exports to a file
    return program


def _shapes(embedder: Embedder) -> dict[str, torch.Size]:
    """Of everything that a training changes, by name; a model with a guard has more of it than its start."""
    return {name: tensor.shape for name, tensor in embedder.state_dict().items()}


def _with_weights(program: torch.onnx.ONNXProgram, embedder: Embedder) -> torch.onnx.ONNXProgram:
    """A graph as traced, with the weights of another model of the same form."""
    other = copy.copy(program)
    other.model = program.model.clone()
    tensors = _onnx_form(embedder).state_dict()
    for name, value in other.model.graph.initializers.items():
        if name in tensors:
            value.const_value = onnx_ir.tensor(tensors[name].numpy(), name=name)
    return other


def _save(program: torch.onnx.ONNXProgram, embedder: Embedder, path: Path, faces: NDArray[np.uint8]) -> StartOnnxRecord:
    """Writes a graph in its simplest form, and checks that it gives what the embedder gives."""
    with quiet():
        program.optimize()
    ClearMetadataAndDocStringPass()(program.model)  # the exporter notes in which file of this machine a node was made
    program.save(str(path))
    cosine, *gaps = agreement(path, embedder, _tensor(faces))
    require(cosine >= LEAST_COSINE, f"{path.name} differs from the model: cosine {cosine:.6f} on {len(faces)} faces")
    for gap in gaps:
        require(gap <= LARGEST_GAP, f"{path.name} differs from the model: scores by {gap:.6f} on {len(faces)} faces")
    scored = {"score_gap": round(gaps[0], 7)} if gaps else {}
    return StartOnnxRecord(file=path.name, sha256=sha256_file(path), least_cosine=round(cosine, 7), **scored)


def _tensor(faces: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(faces)).permute(0, 3, 1, 2).float()


@torch.no_grad()
def agreement(path: Path, embedder: Embedder, crops: Tensor) -> list[float]:
    """The least cosine between torch's and onnxruntime's embeddings; behind it the largest gap of scores, if any."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    embeddings, *scores = session.run(None, {"crops": crops.numpy()})
    ours, *our_scores = embedder(crops)
    gaps = [np.abs(one.numpy() - other).max() for one, other in zip(our_scores, scores, strict=True)]
    return [float((ours.numpy() * embeddings).sum(1).min()), *map(float, gaps)]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporter tells about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
