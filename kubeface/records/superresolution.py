"""superresolution.json as train-superresolution leaves it: a network, how it was trained, and what it came to."""

from typing import Final

from kubeface.records.model import SuperresolutionRecord
from kubeface.records.record import Record

SCHEMA_VERSION: Final = 1


class EnlargementFigures(Record):
    """Means over the validation images."""

    psnr: float
    """Peak signal-to-noise ratio in dB."""
    ssim: float
    """Structural similarity, −1 to 1."""
    identity: float
    """Cosine between the embeddings of enlarged and sharp image, −1 to 1."""


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
    """Of superresolution.safetensors."""
    architecture: str
    """espcn or edsr."""
    channels: int
    """Of the feature maps."""
    blocks: int
    """In the network's middle."""
    producer: str
    aligned: str
    split: str
    judge: str
    """Face model whose embeddings were compared."""
    identity_weight: float
    """Weight of the embeddings in the loss."""
    epochs: int
    batch_size: int
    """Images in a training step."""
    lr: float
    """Initial learning rate."""
    seed: int
    figures: SuperresolutionFigures
