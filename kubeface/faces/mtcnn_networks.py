"""MTCNN's three networks as ONNX, built from the weights in facenet-pytorch's wheel.

The package itself is not imported, since it imports torch, and nothing is unpickled. Its files have the layout that
torch wrote before 1.6 (`_legacy_save` in `torch/serialization.py`).
"""

import hashlib
import io
import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx

from kubeface.faces.mtcnn_onnx import ONET, PNET, RNET, Floats
from kubeface.runtime.errors import KubefaceError, require

PACKAGE = "facenet-pytorch"
OPSET, IR_VERSION = 18, 9  # supported by onnxruntime since 1.17


@dataclass(frozen=True)
class Layer:
    """A convolution or, with a kernel as large as its input, a fully connected layer; followed by PReLU."""

    name: str  # in the file of weights; the last digit is the number of its PReLU
    kernel: int  # side in pixels
    pool: int = 0  # side of the max pooling that follows, with stride 2; 0 for none


@dataclass(frozen=True)
class Architecture:
    """One of the networks of facenet-pytorch 2.6.0, models/mtcnn.py."""

    sha256: str  # of its file of weights
    side: int  # of its input images in pixels, 0 for any
    layers: tuple[Layer, ...]  # before the heads
    heads: tuple[str, ...]  # linear layers that give the outputs; a softmax follows the last one


ARCHITECTURES = {
    PNET: Architecture(
        "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
        0,
        (Layer("conv1", 3, 2), Layer("conv2", 3), Layer("conv3", 3)),
        ("conv4_2", "conv4_1"),
    ),
    RNET: Architecture(
        "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
        24,
        (Layer("conv1", 3, 3), Layer("conv2", 3, 3), Layer("conv3", 2), Layer("dense4", 3)),
        ("dense5_2", "dense5_1"),
    ),
    ONET: Architecture(
        "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
        48,
        (Layer("conv1", 3, 3), Layer("conv2", 3, 3), Layer("conv3", 3, 2), Layer("conv4", 2), Layer("dense5", 3)),
        ("dense6_2", "dense6_3", "dense6_1"),
    ),
}


@cache
def mtcnn_networks() -> dict[str, bytes]:
    """ONNX of P-Net, R-Net and O-Net by name (pnet, rnet, onet).

    The input is `images`, N×3×H×W from −1 to 1. Outputs are the offsets of the box (left, top, right, bottom, relative
    to its size), for O-Net then the landmarks (five x, five y), and last the probabilities of no face and a face.

    Raises:
        KubefaceError: facenet-pytorch is not installed, or another release of it.
    """
    return {name: _onnx(name, architecture) for name, architecture in ARCHITECTURES.items()}


def write_mtcnn(path: Path) -> None:
    """Writes the networks as one archive (`mtcnn.zip` beside model.onnx), which `load_mtcnn` reads; 2 MB.

    It is not compressed and has no timestamps, so that equal networks give equal bytes.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in mtcnn_networks().items():
            archive.writestr(zipfile.ZipInfo(f"{name}.onnx"), data)


def _weights(name: str, expected: str) -> dict[str, Floats]:
    try:
        path = Path(str(distribution(PACKAGE).locate_file(f"facenet_pytorch/data/{name}.pt")))
        data = path.read_bytes()
    except (PackageNotFoundError, OSError) as error:
        raise KubefaceError(f"MTCNN's weights are in {PACKAGE}, which is not installed: install it") from error
    require(
        hashlib.sha256(data).hexdigest() == expected, f"{path} is not that of {PACKAGE} 2.6.0: install that release"
    )
    return read_tensors(io.BytesIO(data))


def read_tensors(file: IO[bytes]) -> dict[str, Floats]:
    """The float32 tensors of a state dict in torch's layout before 1.6, by name, flattened.

    Only for files of a known checksum: it assumes that every tensor is contiguous and fills a storage of its own.
    """
    _, _, _, tensors, storages = [list(_texts(file)) for _ in range(5)]  # after magic number, protocol and system
    names = [text for text in tensors if "." in text]
    keys = [text for text in tensors if text.isdecimal()]
    named = dict(zip(keys, names, strict=True))
    tensors_by_name = {}
    for key in storages:
        count = int.from_bytes(file.read(8), "little")
        tensors_by_name[named[key]] = np.frombuffer(file.read(4 * count), "<f4")
    return tensors_by_name


def _texts(file: IO[bytes]) -> Iterator[str]:
    """The strings of a pickle in order, without those of its imports (GLOBAL); nothing is executed."""
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "BINUNICODE":
            yield str(argument)


class _Graph:
    """An ONNX graph that grows node by node; tensors are identified by name, arrays are constants of it."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str | Floats, **attributes: Any) -> str:
        """Adds a node; returns its output."""
        names = [given if isinstance(given, str) else self._constant(given) for given in inputs]
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, names, [output], **attributes))
        return output

    def _constant(self, values: Floats) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def prelu(self, images: str, slopes: Floats) -> str:
        """Adds PReLU as a·x + (1 − a)·relu(x): onnxruntime's own branches at every number, which costs more than the
        convolutions."""
        slopes = slopes[:, None, None]
        positive = self.add("Mul", self.add("Relu", images), 1 - slopes)
        return self.add("Add", self.add("Mul", images, slopes), positive)


def _onnx(name: str, architecture: Architecture) -> bytes:
    weights, graph, images = _weights(name, architecture.sha256), _Graph(), "images"
    channels = 3
    for layer in architecture.layers:
        kernels = _kernels(weights[f"{layer.name}.weight"], channels, layer)
        images = graph.add("Conv", images, kernels, weights[f"{layer.name}.bias"])
        images = graph.prelu(images, weights[f"prelu{layer.name[-1]}.weight"])
        if layer.pool:
            images = graph.add("MaxPool", images, kernel_shape=[layer.pool] * 2, strides=[2, 2], ceil_mode=1)
        channels = len(kernels)
    outputs = []
    for head in architecture.heads:
        kernels = weights[f"{head}.weight"].reshape((-1, channels, 1, 1), order="F")
        values = graph.add("Conv", images, kernels, weights[f"{head}.bias"])
        outputs.append(graph.add("Flatten", values) if architecture.side else values)
    outputs[-1] = graph.add("Softmax", outputs[-1], axis=1)
    side = [architecture.side] * 2 if architecture.side else ["height", "width"]
    one = onnx.TensorProto.FLOAT
    made = onnx.helper.make_graph(
        graph.nodes,
        name,
        [onnx.helper.make_tensor_value_info("images", one, ["n", 3, *side])],
        [onnx.helper.make_tensor_value_info(o, one, ["n", *[None] * (1 if architecture.side else 3)]) for o in outputs],
        graph.constants,
    )
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _kernels(weights: Floats, channels: int, layer: Layer) -> Floats:
    """A layer's weights in a convolution's layout, outputs×channels×rows×columns.

    The fully connected layers of facenet-pytorch expect columns first and channels last.
    """
    side = layer.kernel
    if layer.name.startswith("dense"):
        flat = weights.reshape((-1, side * side * channels), order="F")
        return flat.reshape(-1, side, side, channels).transpose(0, 3, 2, 1)
    return weights.reshape((-1, channels, side, side), order="F")
