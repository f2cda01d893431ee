"""Backbones by name: the network, how its input is prepared, and where its published weights come from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kubeface.models.backbones.edgeface import edgeface_base, edgeface_s_gamma_05, edgeface_xs_gamma_06, edgeface_xxs
from kubeface.models.backbones.iresnet import iresnet18, iresnet50, iresnet100
from kubeface.models.backbones.mobilefacenet import MobileFaceNet
from kubeface.models.backbones.sface import SFace
from kubeface.models.backbones.small_cnn import SmallCNN
from kubeface.models.backbones.vgg import VGG16
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage.downloads import Source
from kubeface.storage.published_files import SFACE

PerChannel = float | tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """How a backbone wants its input: square of `size` pixels, channels in `color_order`, (x − mean) / std on 0…255.

    mean, std: one number, or one for each channel in `color_order`; std above 0.
    """

    size: int
    color_order: str
    mean: PerChannel
    std: PerChannel

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, list):  # as JSON has it
                object.__setattr__(self, name, tuple(value))
            numbers = value if isinstance(value, list | tuple) else [value]
            require(
                len(numbers) in (1, 3)
                and all(isinstance(number, int | float) and (number > 0 or name == "mean") for number in numbers),
                f"preprocessing's {name} is {value!r}: give one number or three" + ", above 0" * (name == "std"),
            )
        require(isinstance(self.size, int) and self.size > 0, f"preprocessing's size is {self.size!r}: give pixels")
        require(self.color_order in ("rgb", "bgr"), f"preprocessing's color_order is {self.color_order!r}: rgb or bgr")

    @classmethod
    def read(cls, settings: Any, source: str) -> "Preprocessing":
        """The preprocessing out of JSON.

        Raises:
            KubefaceError: a field is missing, unknown or not what it should be; `source` is named.
        """
        try:
            return cls(**settings)
        except TypeError:
            raise KubefaceError(
                f"{source}: preprocessing is {settings!r}: give {', '.join(cls.__match_args__)}"
            ) from None
        except KubefaceError as error:
            raise KubefaceError(f"{source}: {error}") from None


@dataclass(frozen=True)
class Backbone:
    """A named architecture with its published weights.

    Args:
        weights: one source, or several of the same file, tried in order; a URI without checksum is one that nobody
            publishes a checksum of, and is refused until the user gives it. Empty where there is no direct address.
        license: of those weights.
        page: where the publisher offers weights, for those who have to fetch them by hand.
        build_for: the network that a state dict is for, where its last layers depend on the weights; the embedding
            size is then the network's `embedding_size`.
        fixed: whether the name settles the preprocessing. Where it does not, a model folder tells it, and
            `preprocessing` is the usual one.
    """

    name: str
    build: Callable[[], nn.Module]
    preprocessing: Preprocessing
    embedding_size: int
    weights: Source | tuple[Source, ...]
    license: str
    page: str = ""
    build_for: Callable[[Mapping[str, Tensor]], nn.Module] | None = None
    fixed: bool = True

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources of the published weights in the order in which they are tried."""
        return self.weights if isinstance(self.weights, tuple) else (self.weights,)


# Each imports its package when it is called: timm, torchvision and facenet-pytorch take seconds to import.
def _inception_resnet_v1() -> nn.Module:
    from facenet_pytorch import InceptionResnetV1

    network: nn.Module = InceptionResnetV1(classify=False)
    return network


def _resnet50() -> nn.Module:
    from kubeface.models.backbones.resnet import resnet50

    return resnet50()


def _resnet50_keras(state: Mapping[str, Tensor] | None = None) -> nn.Module:
    from kubeface.models.backbones.resnet import resnet50_keras

    return resnet50_keras(state)


# insightface divides by 127.5 (arcface_torch's inference.py), facenet-pytorch and SFace by 128.
_INSIGHTFACE = Preprocessing(112, "rgb", 127.5, 127.5)
_FACENET = Preprocessing(160, "rgb", 127.5, 128.0)
# Mean and deviation of ImageNet's channels, torchvision's 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225 times 255.
_IMAGENET = Preprocessing(224, "rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# `keras.applications.resnet50.preprocess_input`, mode "caffe".
_KERAS = Preprocessing(224, "bgr", (103.939, 116.779, 123.68), 1.0)

_RESEARCH = "non-commercial research only (insightface); trained on MS1MV3"
_ARCFACE_PAGE = "https://github.com/deepinsight/insightface/tree/master/recognition/arcface_torch#model-zoo"
_EDGEFACE_LICENSE = "CC-BY-NC-SA-4.0; trained on subsets of WebFace260M"
_FACENET_PAGE = "https://github.com/timesler/facenet-pytorch/releases/tag/v2.2.9"
_TORCHVISION = "https://download.pytorch.org/models"
_TORCHVISION_LICENSE = "BSD-3-Clause (torchvision); trained on ImageNet"


def _edgeface(name: str, build: Callable[[], nn.Module], revision: str, sha256: str) -> Backbone:
    """An EdgeFace with its publisher's two addresses: Hugging Face at a revision (repository/commit), and GitLab."""
    repository, commit = revision.split("/")
    folders = (
        f"https://huggingface.co/Idiap/{repository}/resolve/{commit}",
        "https://gitlab.idiap.ch/bob/bob.paper.tbiom2023_edgeface/-/raw/master/checkpoints",
    )
    weights = tuple(f"{folder}/{name}.pt#sha256={sha256}" for folder in folders)
    page = f"https://huggingface.co/Idiap/{repository}"
    return Backbone(name, build, _INSIGHTFACE, 512, weights, _EDGEFACE_LICENSE, page)


BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone(
            "sface",
            SFace,
            Preprocessing(112, "rgb", 127.5, 128.0),
            128,
            SFACE,
            "Apache-2.0",
        ),
        # insightface hands its checkpoints out through OneDrive and Baidu, where no program can fetch them; these
        # are copies of its ms1mv3_arcface_{r18,r50,r100}_fp16/backbone.pth. Only of r100 is a checksum known.
        Backbone(
            "iresnet18",
            iresnet18,
            _INSIGHTFACE,
            512,
            "https://github.com/honguyenhaituan/PrivacyPreservingFaceRecognition/releases/download/v1/"
            "ms1mv3_arcface_r18_fp16.pth",
            _RESEARCH,
            _ARCFACE_PAGE,
        ),
        Backbone(
            "iresnet50",
            iresnet50,
            _INSIGHTFACE,
            512,
            "https://huggingface.co/camenduru/show/resolve/main/models/arcface/ms1mv3_arcface_r50_fp16.pth",
            _RESEARCH,
            _ARCFACE_PAGE,
        ),
        Backbone(
            "iresnet100",
            iresnet100,
            _INSIGHTFACE,
            512,
            "https://huggingface.co/camenduru/show/resolve/064a379f415f674051145ec4862f54bd6a65073f/models/arcface/"
            "ms1mv3_arcface_r100_fp16.pth#sha256=a566a62357f0c55b679d9ff2f022a294486568be0c00665d39029d0e46a8109b",
            _RESEARCH,
            _ARCFACE_PAGE,
        ),
        Backbone("mobilefacenet", MobileFaceNet, _INSIGHTFACE, 512, (), _RESEARCH, _ARCFACE_PAGE),
        _edgeface(
            "edgeface_xxs",
            edgeface_xxs,
            "EdgeFace-XXS/e710f4647ac4dde011c13f82224539d24800ab92",
            "5b6bac48ea660aca185be8a8ac934db2093b51259461721da53c468230bc24c9",
        ),
        _edgeface(
            "edgeface_xs_gamma_06",
            edgeface_xs_gamma_06,
            "EdgeFace-XS-GAMMA/735c1b59bdc798260e56f12533fddfe8a8c4c568",
            "5ae7504cd9aee0a5d52c2115fd2eb66b0985dd1730f40134b5854e0cb658ce16",
        ),
        _edgeface(
            "edgeface_s_gamma_05",
            edgeface_s_gamma_05,
            "EdgeFace-S-GAMMA/a1c171036159e94bd4c766088370a37d0899d31f",
            "dc59abda2e8580399fd115a1eeb07e1f21156196db604b884407bcf0f17efb07",
        ),
        _edgeface(
            "edgeface_base",
            edgeface_base,
            "EdgeFace-Base/2944a63d6a73efb3754c553e119b57fe7e54a179",
            "95861c09b22810136f43ec98845e7f09bfc3c43f5a804984a7bd2eac20abc30c",
        ),
        Backbone(
            "inception_resnet_v1",
            _inception_resnet_v1,
            _FACENET,
            512,
            # The weights trained on CASIA-WebFace are on the same page.
            "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt"
            "#sha256=281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
            "MIT (code and weights); trained on VGGFace2",
            _FACENET_PAGE,
        ),
        Backbone(
            "resnet50",
            _resnet50,
            _IMAGENET,
            2048,
            # IMAGENET1K_V1: the features of V2, trained with label smoothing and mixed images, transfer less well
            # (Kornblith et al., arXiv 2010.16402).
            f"{_TORCHVISION}/resnet50-0676ba61.pth"
            "#sha256=0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
            _TORCHVISION_LICENSE,
        ),
        Backbone(
            "vgg16",
            VGG16,
            _IMAGENET,
            512,
            f"{_TORCHVISION}/vgg16-397923af.pth"
            "#sha256=397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            _TORCHVISION_LICENSE,
        ),
        # Is there to be trained from scratch; its input is as large as such a network needs.
        Backbone("small_cnn", SmallCNN, Preprocessing(64, "rgb", 127.5, 127.5), 128, (), ""),
        Backbone("resnet50_keras", _resnet50_keras, _KERAS, 2048, (), "", build_for=_resnet50_keras, fixed=False),
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
