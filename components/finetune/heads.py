"""Heads on embeddings: ArcFace, CosFace, their combination with sub-centres, and linear ones."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from components.faces.errors import KubefaceError, require

HEADS = ("arcface", "cosface", "combined", "softmax")

# Length of the noise that parts a class's sub-centres at the start, beside centres of length 1: 0.1 turns a centre
# by about 6°, far less than the 75° beyond which Deng et al. (ECCV 2020) take an image for an outlier.
SUB_CENTRE_NOISE = 0.1


class MarginHead(nn.Module):
    """Scaled cosine logits with a margin on the true class: s·(cos(m1·θ + m2) − m3).

    The combined margin of Deng et al. (arXiv 1801.07698, eq. 4): (m1, m2, m3) = (1, 0.5, 0) is ArcFace,
    (1, 0, 0.4) CosFace (Wang et al., arXiv 1801.09414), (1, 0.3, 0.2) and (0.9, 0.4, 0.15) their CM1 and CM2.
    With K sub-centres (Deng et al., Sub-center ArcFace, ECCV 2020) the cosine of a class is the largest of its K,
    so that images under a wrong name gather at a centre of their own.

    Where m1·θ + m2 would pass π, cos θ − δ·sin δ stands in its place, where δ is what the margins add to the angle
    at that point (m2 if m1 = 1, as in the authors' code), so that the logit goes on falling with θ.

    Args:
        means: initial class centres, classes×D; the first sub-centre of each class starts there, the others
            at a distance of about SUB_CENTRE_NOISE.
        scale: s.
        margins: (m1, m2 in radians, m3); with 0 < m1 ≤ 2 and 0 ≤ m2 ≤ 1.5 the logit falls over all of 0…π.
        sub_centers: K, at least 1.
    """

    def __init__(self, means: Tensor, scale: float, margins: tuple[float, float, float], sub_centers: int = 1) -> None:
        super().__init__()
        centres = normalize(means.float())[:, None].repeat(1, sub_centers, 1)  # classes×K×D
        noise = torch.randn(centres[:, 1:].shape, generator=torch.Generator().manual_seed(0))
        centres[:, 1:] += SUB_CENTRE_NOISE * normalize(noise, dim=2).to(centres.device)
        self.weight = nn.Parameter(normalize(centres.flatten(0, 1)))
        self.scale, self.margins, self.sub_centers = scale, margins, sub_centers

    def forward(self, embeddings: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits, N×classes float32; the margin is applied where labels (N, int64) are given."""
        with torch.autocast(embeddings.device.type, enabled=False):  # arccos near ±1 needs float32
            cosine = linear(normalize(embeddings.float()), normalize(self.weight)).clamp(-1 + 1e-7, 1 - 1e-7)
            if self.sub_centers > 1:
                cosine = cosine.view(len(cosine), -1, self.sub_centers).amax(2)
            if labels is None:
                return self.scale * cosine
            factor, angular, additive = self.margins
            true = cosine.gather(1, labels[:, None])
            moved = true
            if (factor, angular) != (1, 0):
                angle = torch.acos(true)
                last = (math.pi - angular) / factor  # the angle that the margins move to π
                added = math.pi - last
                moved = torch.cos(factor * angle + angular)
                moved = torch.where(angle >= last, true - added * math.sin(added), moved)
            return self.scale * cosine.scatter(1, labels[:, None], moved - additive)


class LinearHead(nn.Module):
    """Plain linear logits, no margin, no normalisation.

    Args:
        weight: at the start, classes×D.
        bias: at the start, zeros unless given.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float().clone())
        self.bias = nn.Parameter(torch.zeros(len(weight)) if bias is None else bias.float().clone())

    def forward(self, embeddings: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits, N×classes float32."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return linear(embeddings.float(), self.weight, self.bias)


def make_head(
    name: str,
    means: Tensor,
    scale: float,
    margin: float,
    margins: tuple[float, float, float] = (1.0, 0.3, 0.2),
    sub_centers: int = 1,
) -> nn.Module:
    """A head by name with its class centres set to `means` (classes×D).

    Args:
        margin: radians for arcface, cosine for cosface, unused for the others; negative takes 0.5 (the ArcFace
            paper's) and 0.4 (insightface's for CosFace).
        margins: (m1, m2 in radians, m3) of the combined head; the default is the ArcFace paper's CM1.
        sub_centers: centres of a class, for every head but softmax.

    Raises:
        KubefaceError: no head of this name, margins out of range, sub_centers under 1, or more than 1 for softmax.
    """
    require(sub_centers >= 1, f"sub_centers is {sub_centers}: it must be at least 1")
    factor, angular, additive = margins
    require(
        0 < factor <= 2 and 0 <= angular <= 1.5 and 0 <= additive <= 1,
        f"margins are {factor:g}, {angular:g}, {additive:g}: the first must lie above 0 and up to 2, the second in "
        "0 to 1.5, the third in 0 to 1",
    )
    if name == "arcface":
        return MarginHead(means, scale, (1.0, margin if margin >= 0 else 0.5, 0.0), sub_centers)
    if name == "cosface":
        return MarginHead(means, scale, (1.0, 0.0, margin if margin >= 0 else 0.4), sub_centers)
    if name == "combined":
        return MarginHead(means, scale, (factor, angular, additive), sub_centers)
    if name == "softmax":
        require(sub_centers == 1, f"sub_centers is {sub_centers}: the softmax head has one centre a class, use arcface")
        return LinearHead(means)
    raise KubefaceError(f"head '{name}' is unknown: use one of {', '.join(HEADS)}")
