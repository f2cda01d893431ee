"""SFace (Zhong et al., arXiv 2205.12010) as OpenCV Zoo publishes it: a MobileFaceNet-like network, 128-d.

9.64 M parameters; input 112×112 RGB; Apache-2.0.
"""

import contextlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from kubeface.models.backbones.prelu import PReLU
from kubeface.runtime.errors import KubefaceError

# (input channels, output channels, stride of the depthwise convolution) of the separable blocks conv_2 … conv_14
_BLOCKS = [
    (32, 64, 1),
    (64, 128, 2),
    (128, 128, 1),
    (128, 256, 2),
    (256, 256, 1),
    (256, 512, 2),
    *[(512, 512, 1)] * 5,
    (512, 1024, 2),
    (1024, 1024, 1),
]


class ConvBlock(nn.Sequential):
    """Convolution, batch norm, PReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)
        self.act = PReLU(outputs)

    def forward(self, images: Tensor) -> Tensor:
        if self.bn.training or not isinstance(self.conv, nn.Conv2d):  # the latter with an adapter around it
            return self.act(self.bn(self.conv(images)))  # type: ignore[no-any-return]
        # With fixed statistics the batch norm is part of the convolution: two passes over the maps fewer,
        # and as many again on the way back.
        mean, variance = self.bn.running_mean, self.bn.running_var
        assert mean is not None and variance is not None  # noqa: S101 - batch norm tracks its statistics by default
        factor = self.bn.weight * torch.rsqrt(variance + self.bn.eps)
        weight = self.conv.weight * factor[:, None, None, None]
        bias = self.bn.bias - mean * factor
        conv = self.conv
        # oneDNN's way back through a strided depthwise convolution takes several times as long in bf16.
        whole = images.device.type == "cpu" and images.requires_grad and conv.groups > 1 and conv.stride != (1, 1)
        with torch.autocast(images.device.type, enabled=False) if whole else contextlib.nullcontext():
            maps = conv2d(
                images.float() if whole else images, weight, bias, conv.stride, conv.padding, groups=conv.groups
            )
        return self.act(maps.to(images.dtype) if whole else maps)  # type: ignore[no-any-return]


class SFace(nn.Module):
    """Normalised images, N×3×112×112 float, to embeddings, N×128 float (not of unit length)."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [ConvBlock(3, 32, 3)]
        for inputs, outputs, stride in _BLOCKS:
            blocks.append(ConvBlock(inputs, inputs, 3, stride, groups=inputs))
            blocks.append(ConvBlock(inputs, outputs, 1))
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(1024, eps=2e-5)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(1024 * 7 * 7, 128)
        self.features = nn.BatchNorm1d(128, eps=2e-5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.dropout(self.bn(self.blocks(images)))
        return self.features(self.fc(maps.flatten(1)))  # type: ignore[no-any-return]


def _names() -> dict[str, str]:
    """Names in the ONNX file by names in SFace's state dict."""
    onnx_blocks = ["conv_1"]
    for number in range(2, 2 + len(_BLOCKS)):
        onnx_blocks += [f"conv_{number}_dw", f"conv_{number}"]
    statistics = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
    names = {"fc.weight": "pre_fc1_weight", "fc.bias": "pre_fc1_bias"}
    for index, block in enumerate(onnx_blocks):
        names[f"blocks.{index}.conv.weight"] = f"{block}_conv2d_weight"
        names[f"blocks.{index}.act.weight"] = f"{block}_relu_gamma"
        names |= {f"blocks.{index}.bn.{ours}": f"{block}_batchnorm_{theirs}" for ours, theirs in statistics.items()}
    for module, prefix in (("bn", "bn1"), ("features", "fc1")):
        names |= {f"{module}.{ours}": f"{prefix}_{theirs}" for ours, theirs in statistics.items()}
    return names


def _dequantised(tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    """A tensor of the file as float32, (q − zero point) × scale for each block of the last axis
    (ONNX operator DequantizeLinear, opset 21, attribute block_size)."""
    if f"{name}_quantized" not in tensors:
        return tensors[name].astype(np.float32)
    quantised, scales = tensors[f"{name}_quantized"], tensors[f"{name}_scales"]
    zero = tensors[f"{name}_zero_point"]
    block = -(-quantised.shape[-1] // scales.shape[-1])
    spread = [np.repeat(values, block, axis=-1)[..., : quantised.shape[-1]] for values in (scales, zero)]
    return (quantised.astype(np.float32) - spread[1].astype(np.float32)) * spread[0].astype(np.float32)


def read_onnx(path: Path) -> dict[str, Tensor]:
    """The state dict for SFace out of OpenCV Zoo's ONNX file, float32 or block-quantised.

    Raises:
        KubefaceError: the file is no ONNX model or has not SFace's tensors.
    """
    import onnx

    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # onnx raises protobuf's DecodeError and others
        raise KubefaceError(f"{path} is not an ONNX file: {error}") from error
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    state = SFace().state_dict()
    try:
        for ours, theirs in _names().items():
            values = torch.from_numpy(np.array(_dequantised(tensors, theirs)))
            state[ours] = values.reshape(state[ours].shape)
    except (KeyError, RuntimeError) as error:
        raise KubefaceError(f"{path} is not OpenCV Zoo's SFace: {error}") from error
    return state
