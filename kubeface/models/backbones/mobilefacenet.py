"""MobileFaceNet (Chen et al., arXiv 1804.07573) as insightface's recognition/arcface_torch widens and publishes it
(its `get_mbf`, "mobilefacenet-0.45G"), with the names of its checkpoints."""

from torch import Tensor, nn

from kubeface.models.backbones.prelu import PReLU

EMBEDDING_SIZE = 512


class Layers(nn.Module):
    """Layers one behind the other, around which the input is added where `residual`."""

    def __init__(self, *layers: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.residual = residual

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.layers(maps) if self.residual else self.layers(maps)  # type: ignore[no-any-return]


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> Layers:
    """Convolution, batch norm, PReLU."""
    return Layers(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        PReLU(outputs),
    )


def _bottleneck(inputs: int, outputs: int, inner: int, stride: int, residual: bool = False) -> Layers:
    """Widened to `inner` maps, filtered map by map, narrowed without activation (MobileNetV2's inverted residual)."""
    narrowed = Layers(nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
    return Layers(
        _convolution(inputs, inner, 1), _convolution(inner, inner, 3, stride, inner), narrowed, residual=residual
    )


def _bottlenecks(width: int, inner: int, count: int) -> Layers:
    return Layers(*(_bottleneck(width, width, inner, 1, residual=True) for _ in range(count)))


class MobileFaceNet(nn.Module):
    """Normalised images, N×3×112×112 float, to embeddings, N×512 float (not of unit length)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                _convolution(3, 128, 3, 2),
                _convolution(128, 128, 3, 1, groups=64),
                _bottleneck(128, 128, 128, 2),
                _bottlenecks(128, 128, 4),
                _bottleneck(128, 256, 256, 2),
                _bottlenecks(256, 256, 6),
                _bottleneck(256, 256, 512, 2),
                _bottlenecks(256, 256, 2),
            ]
        )
        self.conv_sep = _convolution(256, 512, 1)
        # A filter as large as the map takes the place of average pooling (arXiv 1804.07573).
        pooling = Layers(nn.Conv2d(512, 512, 7, groups=512, bias=False), nn.BatchNorm2d(512))
        self.features = Layers(
            pooling, nn.Flatten(), nn.Linear(512, EMBEDDING_SIZE, bias=False), nn.BatchNorm1d(EMBEDDING_SIZE)
        )

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.layers:
            images = layer(images)
        return self.features(self.conv_sep(images))  # type: ignore[no-any-return]
