"""Classification heads on embeddings: ArcFace, CosFace and softmax."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from components.faces.errors import KubefaceError

HEADS = ("arcface", "cosface", "softmax")


class MarginHead(nn.Module):
    """Scaled cosine logits with a margin on the true class: s·(cos(θ + m2) − m3).

    (m2, m3) = (0.5, 0) is ArcFace (Deng et al., arXiv 1801.07698), (0, 0.4) is CosFace (Wang et al.,
    arXiv 1801.09414). Where θ + m2 would pass π, cos θ − m2·sin m2 stands in its place, as in the
    authors' code, so that the logit goes on falling with θ.

    Args:
        means: initial class centres, classes×D.
        scale: s.
        angular: m2 in radians.
        additive: m3.
    """

    def __init__(self, means: Tensor, scale: float, angular: float, additive: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(normalize(means.float()).clone())
        self.scale, self.angular, self.additive = scale, angular, additive

    def forward(self, embeddings: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits, N×classes float32; the margin is applied where labels (N, int64) are given."""
        with torch.autocast(embeddings.device.type, enabled=False):  # arccos near ±1 needs float32
            cosine = linear(normalize(embeddings.float()), normalize(self.weight)).clamp(-1 + 1e-7, 1 - 1e-7)
            if labels is None:
                return self.scale * cosine
            true = cosine.gather(1, labels[:, None])
            moved = torch.cos(torch.acos(true) + self.angular) if self.angular else true
            if self.angular:
                past = true <= math.cos(math.pi - self.angular)
                moved = torch.where(past, true - self.angular * math.sin(self.angular), moved)
            return self.scale * cosine.scatter(1, labels[:, None], moved - self.additive)


class SoftmaxHead(nn.Module):
    """Plain linear logits, no margin, no normalisation."""

    def __init__(self, means: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(means.float().clone())
        self.bias = nn.Parameter(torch.zeros(len(means)))

    def forward(self, embeddings: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits, N×classes float32."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return linear(embeddings.float(), self.weight, self.bias)


def make_head(name: str, means: Tensor, scale: float, margin: float) -> nn.Module:
    """A head by name with its class centres set to `means` (classes×D).

    Args:
        margin: radians for arcface, cosine for cosface, unused for softmax; negative takes the paper's
            (0.5 and 0.4).

    Raises:
        KubefaceError: no head of this name.
    """
    if name == "arcface":
        return MarginHead(means, scale, angular=margin if margin >= 0 else 0.5, additive=0.0)
    if name == "cosface":
        return MarginHead(means, scale, angular=0.0, additive=margin if margin >= 0 else 0.4)
    if name == "softmax":
        return SoftmaxHead(means)
    raise KubefaceError(f"head '{name}' is unknown: use one of {', '.join(HEADS)}")
