"""superresolution.json as train-superresolution leaves it: a network, how it was trained, and what it came to."""

from typing import Annotated, Final, Literal

from pydantic import Field

from kubeface.records.model import SuperresolutionRecord
from kubeface.records.record import Record
from kubeface.runtime.options import Options

SCHEMA_VERSION: Final = 1


class NetworkDesign(Options):
    """What a super-resolution network is made of."""

    architecture: Literal["espcn", "edsr"] = "edsr"
    """Architecture of the network."""
    scale: Literal[2, 4, 8] = 8
    """How many times the network enlarges; a crop of 112 pixels is made from 112 / scale."""
    channels: Annotated[int, Field(ge=1, le=1024)] = 48
    """Channels of the network's feature maps."""
    blocks: Annotated[int, Field(ge=1, le=128)] = 8
    """Convolutions (espcn) or residual blocks (edsr) in the network's middle."""


class EnlargementFigures(Record):
    """Means over the validation images."""

    psnr: float
    """Peak signal-to-noise ratio in dB."""
    ssim: float
    """Structural similarity, −1 to 1."""
    identity: float
    """Cosine between the embeddings of enlarged and sharp image, −1 to 1."""

    def __str__(self) -> str:
        return f"PSNR {self.psnr:.2f} dB SSIM {self.ssim:.4f} identity {self.identity:.4f}"


class SuperresolutionFigures(Record):
    """The figures of a training."""

    bicubic: EnlargementFigures
    network: EnlargementFigures
    images: int
    best_epoch: int
    """Epoch of the network; 0 is bicubic interpolation."""


class TrainedSuperresolutionRecord(SuperresolutionRecord):
    """A network of train-superresolution."""

    schema_version: int = SCHEMA_VERSION
    weights_sha256: str
    architecture: str
    channels: int
    blocks: int
    producer: str
    aligned: str
    split: str
    judge: str
    """Face model whose embeddings were compared."""
    identity_weight: float
    """Weight of the embeddings in the loss."""
    epochs: int
    batch_size: int
    lr: float
    seed: int
    figures: SuperresolutionFigures
