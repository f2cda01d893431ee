"""Interpolation of trained weights with the starting ones (WiSE-FT, Wortsman et al., arXiv 2109.01903)."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

ALPHAS = tuple(number / 10 for number in range(11))


def interpolated(start: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 − α)·start + α·tuned for every floating-point tensor (WiSE-FT, Wortsman et al., arXiv 2109.01903)."""
    return {
        name: torch.lerp(start[name], value, alpha) if value.dtype.is_floating_point and alpha < 1 else value
        for name, value in tuned.items()
    }


def choose_alpha(
    start: Mapping[str, Tensor], tuned: Mapping[str, Tensor], score: Callable[[dict[str, Tensor]], float]
) -> tuple[float, dict[str, float]]:
    """The α of the highest score, the least of several equals, and every score by α."""
    scores = {f"{alpha:g}": score(interpolated(start, tuned, alpha)) for alpha in ALPHAS}
    return max(ALPHAS, key=lambda alpha: (scores[f"{alpha:g}"], -alpha)), scores
