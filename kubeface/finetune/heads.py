"""Heads on embeddings: ArcFace, CosFace, their combination with sub-centres, AdaFace, and linear ones."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from kubeface.finetune.options import FinetuneOptions

# Length of the noise that parts a class's sub-centres at the start, beside centres of length 1: 0.1 turns a centre
# by about 6°, far less than the 75° beyond which Deng et al. (ECCV 2020) take an image for an outlier.
SUB_CENTRE_NOISE = 0.1
# AdaFace's h: how many standard deviations of the lengths are squeezed into −1…1; and how far the moving mean and
# deviation go to a batch's (Kim et al., arXiv 2204.00964, section 4.1 and its code).
CONCENTRATION = 0.333
MOMENTUM = 0.01


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


class AdaptiveHead(nn.Module):
    """Scaled cosine logits whose margin goes by an image's quality: AdaFace (Kim et al., CVPR 2022, arXiv 2204.00964).

    An embedding's length stands for the image's quality. How far it lies from the mean of the training's, in
    deviations times CONCENTRATION and cut to q in −1…1, chooses between an angular and an additive margin m on the true
    class: s·(cos(θ − m·q) − (m·q + m)), eq. 10 to 13. So an image that can be recognised is asked for more the harder
    it is, and one that cannot is not: q = −1 is ArcFace's margin, 0 CosFace's, 1 a negative angular one with twice
    CosFace's.

    Mean and deviation follow the batches while gradients are computed, and are kept with the head.

    Args:
        means: initial class centres, classes×D.
        scale: s.
        margin: m, 0 to 1.5.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, means: Tensor, scale: float, margin: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(normalize(means.float()))
        self.scale, self.margin = scale, margin
        self.register_buffer("mean", torch.full((), torch.nan, device=means.device))
        self.register_buffer("deviation", torch.full((), torch.nan, device=means.device))

    def forward(self, embeddings: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits, N×classes float32; the margin is applied where labels (N, int64) are given."""
        with torch.autocast(embeddings.device.type, enabled=False):
            cosine = linear(normalize(embeddings.float()), normalize(self.weight)).clamp(-1 + 1e-7, 1 - 1e-7)
            if labels is None:
                return self.scale * cosine
            moved = self.margin * self.quality(embeddings.detach().float().norm(dim=1))[:, None]
            angle = torch.acos(cosine.gather(1, labels[:, None])) - moved
            true = torch.cos(angle.clamp(1e-3, math.pi - 1e-3)) - (moved + self.margin)
            return self.scale * cosine.scatter(1, labels[:, None], true)

    def quality(self, lengths: Tensor) -> Tensor:
        """What the lengths of embeddings (N) say of their images, −1 (poor) to 1 (good)."""
        if torch.is_grad_enabled():
            self._follow(lengths)
        if self.mean.isnan():  # nothing was trained on yet
            return torch.zeros_like(lengths)
        return ((lengths - self.mean) / (self.deviation + 1e-3) * CONCENTRATION).clamp(-1, 1)

    @torch.no_grad()
    def _follow(self, lengths: Tensor) -> None:
        """Moves mean and deviation towards those of a batch; the first one is where they begin."""
        for kept, now in ((self.mean, lengths.mean()), (self.deviation, lengths.std(correction=0))):
            kept.copy_(torch.where(kept.isnan(), now, kept.lerp(now, MOMENTUM)))


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


def make_head(options: FinetuneOptions, means: Tensor) -> nn.Module:
    """The head that the options ask for, with its class centres set to `means` (classes×D).

    A negative margin takes 0.5 for ArcFace (its paper's) and 0.4 for CosFace (insightface's) and AdaFace (its paper's).
    """
    own, scale = options.margin, options.scale
    if options.head == "adaface":
        return AdaptiveHead(means, scale, own if own >= 0 else 0.4)
    if options.head == "softmax":
        return LinearHead(means)
    margins = {
        "arcface": (1.0, own if own >= 0 else 0.5, 0.0),
        "cosface": (1.0, 0.0, own if own >= 0 else 0.4),
        "combined": options.margins,
    }[options.head]
    return MarginHead(means, scale, margins, options.sub_centers)
