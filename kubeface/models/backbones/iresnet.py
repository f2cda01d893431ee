"""IResNet, the residual networks of insightface's recognition/arcface_torch, with the names of its checkpoints.

A block is batch norm, convolution, batch norm, PReLU, convolution, batch norm, around which the input is added
(the improved residual unit of ArcFace, arXiv 1801.07698). The first block of each stage halves the map.
"""

from torch import Tensor, nn

from kubeface.models.backbones.prelu import PReLU

EMBEDDING_SIZE = 512


class Block(nn.Module):
    """Maps, N×inputs×H×W, to N×outputs×(H/stride)×(W/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride > 1
            else None
        )

    def forward(self, maps: Tensor) -> Tensor:
        shortcut = maps if self.downsample is None else self.downsample(maps)
        maps = self.prelu(self.bn2(self.conv1(self.bn1(maps))))
        return shortcut + self.bn3(self.conv2(maps))  # type: ignore[no-any-return]


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(Block(inputs, outputs, 2), *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


class IResNet(nn.Module):
    """Normalised images, N×3×112×112 float, to embeddings, N×512 float (not of unit length)."""

    def __init__(self, *blocks: int) -> None:  # in each of the four stages
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = PReLU(64)
        self.layer1 = _stage(64, 64, blocks[0])
        self.layer2 = _stage(64, 128, blocks[1])
        self.layer3 = _stage(128, 256, blocks[2])
        self.layer4 = _stage(256, 512, blocks[3])
        self.bn2 = nn.BatchNorm2d(512)
        # arcface_torch has a dropout layer here, which its published models leave at 0.
        self.fc = nn.Linear(512 * 7 * 7, EMBEDDING_SIZE)
        self.features = nn.BatchNorm1d(EMBEDDING_SIZE)
        self.features.weight.requires_grad = False  # stays 1 in arcface_torch's training

    def forward(self, images: Tensor) -> Tensor:
        maps = self.prelu(self.bn1(self.conv1(images)))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        return self.features(self.fc(self.bn2(maps).flatten(1)))  # type: ignore[no-any-return]
