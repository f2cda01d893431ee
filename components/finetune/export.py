"""The model as ONNX, and the proof that it is the same model."""

import contextlib
import io
import logging
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from components.faces.errors import require
from components.faces.model import FaceModel

OPSET = 18
LEAST_COSINE = 0.9999


class Embedder(nn.Module):
    """Preparation, network and normalisation in one: RGB crops in, unit-length embeddings out."""

    def __init__(self, model: FaceModel) -> None:
        super().__init__()
        self.network, self._prepare = model.network, model.prepare

    def forward(self, crops: Tensor) -> Tensor:
        """Embeddings N×D (length 1) of crops N×3×112×112, RGB 0…255, float32."""
        return normalize(self.network(self._prepare(crops)))


def export_onnx(model: FaceModel, path: Path, faces: NDArray[np.uint8]) -> float:
    """Writes the model as ONNX, input `crops` (N×3×112×112, RGB 0…255, float32), output `embeddings` (N×D, length 1).

    Args:
        model: on any device; exported from the CPU.
        path: of the .onnx file.
        faces: real crops (N×112×112×3, uint8) to check it on.

    Returns:
        the least cosine between torch's and onnxruntime's embeddings.

    Raises:
        KubefaceError: it falls under LEAST_COSINE.
    """
    embedder = Embedder(model).cpu().eval()
    crops = torch.from_numpy(np.ascontiguousarray(faces)).permute(0, 3, 1, 2).float()
    with quiet():
        exported = torch.onnx.export(
            embedder, (crops[:2].clone(),), dynamo=True, opset_version=OPSET, external_data=False,
            input_names=["crops"], output_names=["embeddings"], dynamic_shapes={"crops": {0: torch.export.Dim("n")}},
        )  # fmt: skip
    assert exported is not None  # noqa: S101 - None is for exports to a file
    exported.save(str(path))
    cosine = least_cosine(path, embedder, crops)
    require(cosine >= LEAST_COSINE, f"{path.name} differs from the model: cosine {cosine:.6f} on {len(faces)} faces")
    return cosine


@torch.no_grad()
def least_cosine(path: Path, embedder: nn.Module, crops: Tensor) -> float:
    """The least cosine between the embeddings that torch and onnxruntime give."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {"crops": crops.numpy()})[0]
    return float((embedder(crops).numpy() * found).sum(1).min())


@contextlib.contextmanager
def quiet():  # type: ignore[no-untyped-def]
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
