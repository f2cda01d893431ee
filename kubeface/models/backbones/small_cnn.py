"""A small convolutional network to train from random weights: what a pretrained one has to be better than."""

from torch import Tensor, nn

WIDTHS = (16, 32, 64, 128)  # maps behind each block; the last is the embedding's size


class SmallCNN(nn.Module):
    """Normalised images, N×3×64×64 float, to embeddings, N×128 float (not of unit length).

    Four blocks of convolution, batch norm, ReLU and pooling, and the mean of each map behind the last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(_block(*widths) for widths in zip((3, *WIDTHS[:-1]), WIDTHS, strict=True)))

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(images).mean((2, 3))  # type: ignore[no-any-return]


def _block(inputs: int, outputs: int) -> nn.Sequential:
    """Maps, N×inputs×H×W, to N×outputs×H/2×W/2."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))
