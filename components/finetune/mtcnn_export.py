"""MTCNN's three networks as ONNX, so that a model aligns photographs without torch as it was trained to."""

import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
from torch import Tensor, nn

from components.faces.errors import require
from components.faces.mtcnn_onnx import ONET, PNET, RNET
from components.finetune.export import OPSET, quiet

MOST_DIFFERENCE = 1e-4  # of a probability, or of an offset in shares of the box


def export_mtcnn(path: Path) -> float:
    """Writes the networks of facenet-pytorch's wheel as one archive, which `mtcnn_onnx` runs; 2 MB.

    The archive is not compressed and bears no time, so that equal networks give equal bytes.

    Args:
        path: of the archive, `mtcnn.zip` beside model.onnx.

    Returns:
        the largest difference between what torch and onnxruntime make of the same images.

    Raises:
        KubefaceError: it is above MOST_DIFFERENCE.
    """
    generator = torch.Generator().manual_seed(0)
    difference = 0.0
    with zipfile.ZipFile(path, "w") as archive:
        for name, network, shape in ((PNET, PNet(), (1, 3, 61, 46)), (RNET, RNet(), (3, 3, 24, 24)),
                                     (ONET, ONet(), (3, 3, 48, 48))):  # fmt: skip
            images = torch.rand(shape, generator=generator) * 2 - 1
            data = _onnx(network.eval(), images, dynamic_size=name == PNET)
            difference = max(difference, _difference(data, network, images))
            archive.writestr(zipfile.ZipInfo(name), data)
    require(difference <= MOST_DIFFERENCE, f"{path.name} differs from facenet-pytorch's MTCNN by {difference:.2g}")
    return difference


def _onnx(network: nn.Module, images: Tensor, dynamic_size: bool) -> bytes:
    """A network for images (N×3×H×W) of any number; of one image of any size where `dynamic_size`."""
    auto = torch.export.Dim.AUTO
    with quiet():
        exported = torch.onnx.export(
            network, (images,), dynamo=True, opset_version=OPSET, external_data=False, input_names=["images"],
            dynamic_shapes=({2: auto, 3: auto} if dynamic_size else {0: auto},),
        )  # fmt: skip
    assert exported is not None  # noqa: S101 - None is for exports to a file
    return bytes(exported.model_proto.SerializeToString(deterministic=True))


@torch.no_grad()
def _difference(data: bytes, network: nn.Module, images: Tensor) -> float:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images.numpy()})
    return max(float(np.abs(ours - theirs.numpy()).max()) for ours, theirs in zip(found, network(images), strict=True))
