"""Backbones by name: the network, how its input is prepared, and where its published weights come from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from kubeface.models.backbones.edgeface import EdgeFace
from kubeface.models.backbones.iresnet import IResNet
from kubeface.models.backbones.mobilefacenet import MobileFaceNet
from kubeface.models.backbones.sface import SFace
from kubeface.models.backbones.small_cnn import SmallCNN
from kubeface.models.backbones.vgg import VGG16
from kubeface.records.model import Preprocessing
from kubeface.runtime.errors import require
from kubeface.storage.downloads import Source
from kubeface.storage.published_files import SFACE


@dataclass(frozen=True)
class Backbone:
    """A named architecture with its published weights.

    A source without checksum is one that nobody publishes a checksum of, and is refused until the user gives it.
    """

    name: str
    build: Callable[[], nn.Module]
    preprocessing: Preprocessing
    embedding_size: int
    sources: tuple[Source, ...]  # of one file, tried in order; empty where there is no direct address
    license: str  # of those weights
    page: str = ""  # where the publisher offers weights, for those who have to fetch them by hand
    # The network that a state dict is for, where its last layers depend on the weights; it has an `embedding_size`.
    build_for: Callable[[Mapping[str, Tensor]], nn.Module] | None = None
    fixed: bool = True  # whether the name settles the preprocessing; else a model folder does, and this is the usual


def _late(module: str, name: str) -> Callable[..., Any]:
    """What builds a network, imported when it is called: torchvision and facenet-pytorch take seconds to import."""
    return lambda *arguments: getattr(import_module(module), name)(*arguments)


_RESNET = "kubeface.models.backbones.resnet"
_resnet50, _resnet50_keras = (_late(_RESNET, name) for name in ("resnet50", "resnet50_keras"))


# insightface divides by 127.5 (arcface_torch's inference.py), facenet-pytorch and SFace by 128.
_INSIGHTFACE = Preprocessing(size=112, color_order="rgb", mean=127.5, std=127.5)
_SFACE = Preprocessing(size=112, color_order="rgb", mean=127.5, std=128.0)
_FACENET = Preprocessing(size=160, color_order="rgb", mean=127.5, std=128.0)
_SMALL = Preprocessing(size=64, color_order="rgb", mean=127.5, std=127.5)  # as large as such a network needs
# Mean and deviation of ImageNet's channels, torchvision's 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225 times 255.
_IMAGENET = Preprocessing(size=224, color_order="rgb", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
# `keras.applications.resnet50.preprocess_input`, mode "caffe".
_KERAS = Preprocessing(size=224, color_order="bgr", mean=(103.939, 116.779, 123.68), std=1.0)


def _arcface(name: str, build: Callable[[], nn.Module], *weights: Source) -> Backbone:
    """A network of insightface's arcface_torch, which hands its checkpoints out through OneDrive and Baidu, where no
    program can fetch them: `weights` are a copy of its ms1mv3_arcface_…_fp16/backbone.pth."""
    page = "https://github.com/deepinsight/insightface/tree/master/recognition/arcface_torch#model-zoo"
    license = "non-commercial research only (insightface); trained on MS1MV3"
    return Backbone(name, build, _INSIGHTFACE, 512, weights, license, page)


def _edgeface(name: str, build: Callable[[], nn.Module], revision: str, sha256: str) -> Backbone:
    """An EdgeFace with its publisher's two addresses: Hugging Face at a revision (repository/commit), and GitLab."""
    repository, commit = revision.split("/")
    page = f"https://huggingface.co/Idiap/{repository}"
    gitlab = "https://gitlab.idiap.ch/bob/bob.paper.tbiom2023_edgeface/-/raw/master/checkpoints"
    weights = tuple(f"{folder}/{name}.pt#sha256={sha256}" for folder in (f"{page}/resolve/{commit}", gitlab))
    license = "CC-BY-NC-SA-4.0; trained on subsets of WebFace260M"
    return Backbone(name, build, _INSIGHTFACE, 512, weights, license, page)


def _torchvision(name: str, build: Callable[[], nn.Module], size: int, sha256: str) -> Backbone:
    """One of torchvision's, whose file has the first digits of its checksum in its name."""
    weights = f"https://download.pytorch.org/models/{name}-{sha256[:8]}.pth#sha256={sha256}"
    return Backbone(name, build, _IMAGENET, size, (weights,), "BSD-3-Clause (torchvision); trained on ImageNet")


BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone("sface", SFace, _SFACE, 128, (SFACE,), "Apache-2.0"),
        # Only of r100 is a checksum known.
        _arcface(
            "iresnet18",
            partial(IResNet, 2, 2, 2, 2),
            "https://github.com/honguyenhaituan/PrivacyPreservingFaceRecognition/releases/download/v1/"
            "ms1mv3_arcface_r18_fp16.pth",
        ),
        _arcface(
            "iresnet50",
            partial(IResNet, 3, 4, 14, 3),
            "https://huggingface.co/camenduru/show/resolve/main/models/arcface/ms1mv3_arcface_r50_fp16.pth",
        ),
        _arcface(
            "iresnet100",
            partial(IResNet, 3, 13, 30, 3),
            "https://huggingface.co/camenduru/show/resolve/064a379f415f674051145ec4862f54bd6a65073f/models/arcface/"
            "ms1mv3_arcface_r100_fp16.pth#sha256=a566a62357f0c55b679d9ff2f022a294486568be0c00665d39029d0e46a8109b",
        ),
        _arcface("mobilefacenet", MobileFaceNet),
        _edgeface(
            "edgeface_xxs",
            partial(EdgeFace, "edgenext_xx_small"),
            "EdgeFace-XXS/e710f4647ac4dde011c13f82224539d24800ab92",
            "5b6bac48ea660aca185be8a8ac934db2093b51259461721da53c468230bc24c9",
        ),
        _edgeface(
            "edgeface_xs_gamma_06",
            partial(EdgeFace, "edgenext_x_small", 0.6),
            "EdgeFace-XS-GAMMA/735c1b59bdc798260e56f12533fddfe8a8c4c568",
            "5ae7504cd9aee0a5d52c2115fd2eb66b0985dd1730f40134b5854e0cb658ce16",
        ),
        _edgeface(
            "edgeface_s_gamma_05",
            partial(EdgeFace, "edgenext_small", 0.5),
            "EdgeFace-S-GAMMA/a1c171036159e94bd4c766088370a37d0899d31f",
            "dc59abda2e8580399fd115a1eeb07e1f21156196db604b884407bcf0f17efb07",
        ),
        _edgeface(
            "edgeface_base",
            partial(EdgeFace, "edgenext_base"),
            "EdgeFace-Base/2944a63d6a73efb3754c553e119b57fe7e54a179",
            "95861c09b22810136f43ec98845e7f09bfc3c43f5a804984a7bd2eac20abc30c",
        ),
        Backbone(
            "inception_resnet_v1",
            _late("facenet_pytorch", "InceptionResnetV1"),
            _FACENET,
            512,
            # The weights trained on CASIA-WebFace are on the same page.
            (
                "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt"
                "#sha256=281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
            ),
            "MIT (code and weights); trained on VGGFace2",
            "https://github.com/timesler/facenet-pytorch/releases/tag/v2.2.9",
        ),
        # IMAGENET1K_V1: the features of V2, trained with label smoothing and mixed images, transfer less well
        # (Kornblith et al., arXiv 2010.16402).
        _torchvision("resnet50", _resnet50, 2048, "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a"),
        _torchvision("vgg16", VGG16, 512, "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"),
        Backbone("small_cnn", SmallCNN, _SMALL, 128, (), ""),  # is there to be trained from scratch
        Backbone("resnet50_keras", _resnet50_keras, _KERAS, 2048, (), "", build_for=_resnet50_keras, fixed=False),
    )
}


def backbone_named(name: str) -> Backbone:
    """The backbone of this name.

    Raises:
        KubefaceError: there is none.
    """
    require(name in BACKBONES, f"backbone '{name}' is unknown: use one of {', '.join(BACKBONES)}")
    return BACKBONES[name]
