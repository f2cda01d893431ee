"""Quality routing: only crops that look degraded go through the fine-tuned weights.

Fine-tuning for bad cameras costs accuracy on good pictures. Routing avoids most of that price: a gate reads from a
crop's fine structure whether it is degraded, and sends it through the fine-tuned or the starting weights. The idea is
PETALface's (arXiv 2412.07771), which weighs two sets of adapters by image quality. Both networks must embed into one
space, which distillation ensures.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

OCTAVES = 4


def fine_structure(images: Tensor) -> Tensor:
    """Log energy of the detail of each octave, N×OCTAVES, of prepared crops N×3×H×W.

    Detail is what a 3×3 mean takes away from the grey picture, at full size, half, a quarter …: noise
    raises the first ones, low resolution, blur and JPEG lower them.
    """
    grey = images.float().mean(1, keepdim=True)
    energies = []
    for _ in range(OCTAVES):
        detail = grey - avg_pool2d(pad(grey, (1, 1, 1, 1), mode="replicate"), 3, 1)
        energies.append(torch.log(detail.square().mean((1, 2, 3)) + 1e-6))
        grey = avg_pool2d(grey, 2)
    return torch.stack(energies, 1)


class QualityRouted(nn.Module):
    """Two networks of one architecture, `tuned` for crops that look degraded, and the gate between them."""

    weight: Tensor
    bias: Tensor

    def __init__(self, start: nn.Module, tuned: nn.Module) -> None:
        super().__init__()
        self.start, self.tuned = start, tuned
        self.register_buffer("weight", torch.zeros(OCTAVES))
        self.register_buffer("bias", torch.zeros(1))

    def degraded(self, images: Tensor) -> Tensor:
        """Whether each of the prepared crops (N×3×H×W) looks degraded (N, bool)."""
        return fine_structure(images) @ self.weight + self.bias > 0

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings N×D of prepared crops N×3×H×W."""
        degraded = self.degraded(images)
        if torch.compiler.is_exporting():  # a graph has no branches: both are computed, one is taken
            return torch.where(degraded[:, None], self.tuned(images), self.start(images))
        chosen = degraded.nonzero()[:, 0], (~degraded).nonzero()[:, 0]
        found = [net(images[rows]) for net, rows in zip((self.tuned, self.start), chosen, strict=True) if len(rows)]
        return torch.cat(found)[torch.cat(chosen).argsort()]
