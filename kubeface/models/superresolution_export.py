"""Super-resolution networks of torch as ONNX, which is what runs."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from kubeface.models.superresolution_networks import load_network
from kubeface.runtime.errors import KubefaceError, require

OPSET = 18
LARGEST_GAP = 0.5 / 255  # between torch's pixels and onnxruntime's, of 0…1


def to_onnx(path: Path) -> bytes:
    """The network of a .safetensors or TorchScript file as ONNX.

    Raises:
        KubefaceError: the file is none, cannot be exported, or the export gives other images.
    """
    return export(load_network(path) if path.suffix.lower() == ".safetensors" else _scripted(path), path.name)


def export(network: nn.Module, name: str) -> bytes:
    """A network as ONNX, input `images` (N×3×H×W, RGB 0…1, float32), output `enlarged`, checked against torch.

    The network is on the CPU, in evaluation mode; an error calls it `name`.

    Raises:
        KubefaceError: it cannot be exported, or the export gives other images.
    """
    try:
        with _quiet(), torch.no_grad(), TemporaryDirectory() as scratch:
            # The exporter on torch.export takes no TorchScript.
            torch.onnx.export(
                network, (torch.rand(2, 3, 9, 11),), f"{scratch}/it.onnx", dynamo=False, opset_version=OPSET,
                input_names=["images"], output_names=["enlarged"],
                dynamic_axes={"images": {0: "n", 2: "h", 3: "w"}, "enlarged": {0: "n", 2: "sh", 3: "sw"}},
            )  # fmt: skip
            model = onnx.load(f"{scratch}/it.onnx")
    except Exception as error:  # torch.onnx raises many kinds
        reason = " ".join(str(error).split())[:200]
        raise KubefaceError(f"{name} cannot be exported to ONNX ({reason}): export it and give the .onnx") from error
    for node in model.graph.node:
        node.doc_string = ""  # the exporter notes in which file of this machine a node was made
    data = bytes(model.SerializeToString(deterministic=True))
    gap = _gap(network, data)
    require(
        gap <= LARGEST_GAP, f"{name} as ONNX gives other images, by {255 * gap:.2f} grey levels: export it yourself"
    )
    return data


def _scripted(path: Path) -> nn.Module:
    try:
        return torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-any-return, no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise KubefaceError(f"{path} is no TorchScript: {reason}") from error


@torch.no_grad()
def _gap(network: nn.Module, data: bytes) -> float:
    """The largest difference of pixels between torch and onnxruntime, on images of two sizes."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    gaps = []
    for shape in ((1, 3, 14, 14), (3, 3, 20, 17)):
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        expected: Tensor = network(images)
        found = session.run(None, {"images": images.numpy()})[0]
        if found.shape != tuple(expected.shape):
            return float("inf")
        gaps.append(float(np.abs(found - expected.numpy()).max()))
    return max(gaps)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter tells about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
