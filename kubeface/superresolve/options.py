"""Options of superresolve, of the training of a super-resolution network, and of degrade."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kubeface.records.superresolution import NetworkDesign
from kubeface.runtime.options import Count, NonNegative, Options, Seed

BlurSigma = Annotated[float, Field(ge=0, le=10)]
NoiseSigma = Annotated[float, Field(ge=0, le=100)]
JpegQuality = Annotated[int, Field(ge=0, le=100)]


class SuperresolveOptions(Options):
    """Which images are enlarged, by what, and how much."""

    model: str = "bicubic"
    """What enlarges: bicubic, or a network (.onnx, .safetensors, TorchScript, or a folder of train-superresolution;
    path, s3:// or https:// with #sha256=…)."""
    scale: Annotated[int, Field(ge=0, le=16)] = 0
    """How many times larger, 2 to 16; 0 for as many as the network does, and for 4 times where it is bicubic."""
    which: Literal["low", "small", "all"] = "low"
    """Which images: low (those whose group resolution says so, as in folders vlr_images), small (see max_side), or
    all."""
    max_side: Count = 0
    """For which = small: the longest side of a photograph that is enlarged, in pixels."""

    @model_validator(mode="after")
    def _scale_enlarges(self) -> Self:
        if self.scale == 1:
            raise ValueError("scale is 1: it must lie between 2 and 16, or be 0")
        return self

    @model_validator(mode="after")
    def _small_has_a_size(self) -> Self:
        if (self.max_side > 0) != (self.which == "small"):
            raise ValueError(f"max_side is {self.max_side} and which is {self.which}: small needs one")
        return self


class TrainSuperresolutionOptions(NetworkDesign):
    """The network and its training."""

    backbone: str = "sface"
    """Face model whose embeddings are compared."""
    pretrained: str = ""
    """Weights of the face model; empty for the published ones."""
    identity_weight: NonNegative = 0.1
    """Weight of the embeddings' loss beside that of the pixels; 0 for pixels alone."""
    epochs: Annotated[int, Field(ge=1)] = 10
    """Number of epochs."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Images in a training step."""
    lr: Annotated[float, Field(gt=0, lt=1)] = 5e-4
    """Initial learning rate of AdamW, which falls to 0 along a cosine."""
    amp: Literal["auto", "off", "bf16"] = "auto"
    """Mixed precision: auto is bf16 on CUDA and off elsewhere."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto takes CUDA where there is one."""
    seed: Seed = 0
    """Seed of the order of images, of mirroring, and of synthetic low resolution."""


class CameraOptions(Options):
    """A poor camera. Each strength is drawn uniformly from its range, least and greatest value included."""

    blur: tuple[BlurSigma, BlurSigma] = (0.0, 0.6)
    """Least and greatest standard deviation of the lens's blur, in pixels of the low resolution, 0 to 10."""
    noise: tuple[NoiseSigma, NoiseSigma] = (0.0, 4.0)
    """Least and greatest standard deviation of the sensor's noise, in grey levels of 255, 0 to 100."""
    jpeg: tuple[JpegQuality, JpegQuality] = (70, 95)
    """Least and greatest JPEG quality, 1 to 100; 0 0 for no compression."""

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for name in CameraOptions.model_fields:
            least, greatest = getattr(self, name)
            if least > greatest:
                raise ValueError(f"{name} is {least:g} to {greatest:g}: give the least value first")
        return self


class DegradeOptions(CameraOptions):
    """How low-resolution images are made."""

    scale: Annotated[int, Field(ge=2, le=16)] = 8
    """How many times fewer pixels across, 2 to 16."""
    seed: Seed = 0
    """Seed of the strengths that are drawn."""
