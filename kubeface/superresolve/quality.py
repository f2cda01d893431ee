"""The quality of enlarged images compared with the sharp ones: PSNR and SSIM."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

# Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 13(4), 2004.
WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def psnr(images: Tensor, sharp: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, N, at most 100, of images N×3×H×W, 0…1, over all pixels and channels."""
    error = (images.double() - sharp.double()).square().mean((1, 2, 3))
    return -10 * torch.log10(error.clamp(min=1e-10))


def ssim(images: Tensor, sharp: Tensor) -> Tensor:
    """Structural similarity of each image's luma, N, −1…1: the mean over all positions of an 11×11 Gaussian window.

    Images are N×3×H×W, 0…1, at least 11 pixels a side.
    """
    weights = torch.tensor(LUMA, dtype=torch.float64)[None, :, None, None]
    one, other = ((part.double() * weights).sum(1, keepdim=True) for part in (images, sharp))
    line = torch.exp(-((torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    window = torch.outer(line, line)[None, None] / line.sum() ** 2

    def mean(maps: Tensor) -> Tensor:
        return conv2d(maps, window)

    first, second = mean(one), mean(other)
    variances = mean(one * one) - first**2, mean(other * other) - second**2
    covariance = mean(one * other) - first * second
    c1, c2 = K1**2, K2**2
    similarity = ((2 * first * second + c1) * (2 * covariance + c2)) / (
        (first**2 + second**2 + c1) * (variances[0] + variances[1] + c2)
    )
    return similarity.mean((1, 2, 3))
