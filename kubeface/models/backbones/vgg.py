"""VGG-16 (Simonyan and Zisserman, arXiv 1409.1556, configuration D) of torchvision as an embedding network."""

from torch import Tensor, nn


class VGG16(nn.Module):
    """Normalised images, N×3×H×W float, to embeddings, N×512 float (not of unit length).

    The convolutions, with torchvision's names, and the mean of each of their maps; the three linear layers
    (`classifier.*`) are left out.
    """

    def __init__(self) -> None:
        from torchvision.models.vgg import cfgs, make_layers

        super().__init__()
        self.features = make_layers(cfgs["D"])

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).mean((2, 3))  # type: ignore[no-any-return]
