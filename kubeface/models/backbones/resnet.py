"""ResNet-50 (He et al., arXiv 1512.03385) as an embedding network: global average pooling in place of the classifier.

Torchvision's (v1.5) has a block's stride in its 3×3 convolution, Keras' (v1, as in the paper) in its first 1×1.
"""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from kubeface.runtime.errors import require

STAGES = (3, 4, 6, 3)  # blocks in layer1 … layer4
POOLED = 2048  # channels behind the last block
# keras.applications' ResNet50 sets the first in every batch norm. The second is keras.layers.BatchNormalization's
# default, as is a momentum of 0.99, which is 0.01 in torch's way of counting.
KERAS_EPSILON, KERAS_DEFAULT_EPSILON, KERAS_MOMENTUM = 1.001e-5, 1e-3, 0.01


class ResNet50(ResNet):  # type: ignore[misc]  # torchvision is untyped
    """Normalised images, N×3×S×S float, to embeddings, N×D float (not of unit length).

    Torchvision's names without `fc.*`; `embedding.*` are the layers behind the pooling, if there are any.
    """

    def __init__(self, embedding: nn.Sequential, embedding_size: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__(Bottleneck, list(STAGES), num_classes=1, norm_layer=norm)
        self.fc = nn.Identity()
        self.embedding = embedding
        self.embedding_size = embedding_size

    def forward(self, images: Tensor) -> Tensor:
        return self.embedding(super().forward(images))  # type: ignore[no-any-return]


def resnet50() -> ResNet50:
    """Torchvision's ResNet-50, 2048-d."""
    return ResNet50(nn.Sequential(), POOLED, nn.BatchNorm2d)


def resnet50_keras(state: Mapping[str, Tensor] | None = None) -> ResNet50:
    """Keras' ResNet-50, with the layers behind the pooling that a state dict of it (`read_keras`) has.

    Args:
        state: `embedding.<i>.running_mean` makes layer i a batch norm, else `embedding.<i>.weight` (out×in) and
            perhaps `.bias` a linear layer. Only the shapes of these are read. Without any, or None: 2048-d.

    Raises:
        KubefaceError: a layer's weight is missing or is no vector (batch norm) or matrix (linear).
    """
    embedding, size = _embedding(state or {})
    network = ResNet50(embedding, size, partial(nn.BatchNorm2d, eps=KERAS_EPSILON, momentum=KERAS_MOMENTUM))
    for stage in (network.layer2, network.layer3, network.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, stage[0].conv1.stride
    return network


def _embedding(state: Mapping[str, Tensor]) -> tuple[nn.Sequential, int]:
    """The layers `embedding.*` of a state dict, and the size of what they give."""
    layers, size = nn.Sequential(), POOLED
    for index in range(len({name.split(".")[1] for name in state if name.startswith("embedding.")})):
        prefix = f"embedding.{index}."
        weight, normalises = state.get(f"{prefix}weight"), f"{prefix}running_mean" in state
        require(
            weight is not None and weight.ndim == (1 if normalises else 2),
            f"the weights hold no {prefix}weight of a {'batch norm' if normalises else 'linear layer'}: "
            "the layers behind the pooling are embedding.0, embedding.1 …",
        )
        assert weight is not None  # noqa: S101 - required above
        if normalises:
            layers.append(nn.BatchNorm1d(len(weight), eps=KERAS_DEFAULT_EPSILON, momentum=KERAS_MOMENTUM))
        else:
            layers.append(nn.Linear(weight.shape[1], len(weight), bias=f"{prefix}bias" in state))
        size = len(weight)
    return layers, size
