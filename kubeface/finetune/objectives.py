"""The objectives of the tasks: head, losses, correct answers, and figures of validation images.

A batch says of each image one number: its class, or for attributes the row in which its labels stand.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cosine_similarity,
    cross_entropy,
    linear,
    normalize,
    softplus,
)

from kubeface.finetune.heads import AdaptiveHead, LinearHead, MarginHead, make_head
from kubeface.finetune.options import FinetuneOptions
from kubeface.finetune.training_data import TrainingData
from kubeface.metrics.pairs import all_pairs
from kubeface.metrics.verification import verification
from kubeface.models.model import FaceModel
from kubeface.records.tasks import RECOGNITION
from kubeface.tables.labels import UNKNOWN

# Validation images that verification figures are taken from: 4,000 make 8 million pairs, more than are scored.
VERIFIED = 4000
PAIRS = 200_000
# A label with one positive in a hundred images would count 99 times; noise in its few images would drown the others.
MOST_WEIGHT = 10.0
# Labels that fewer images than this share show are rare; LVIS (arXiv 1908.03195, 4.2) takes 0.001 of 1,203 categories,
# the rarest quarter of CelebA's labels lie under 0.1.
RARE = 0.1


class ClassificationObjective:
    """One class an image, recognition's people among them: a head with or without margins and cross entropy.

    Args:
        centres: where the head's class centres start, classes×D; on the device of the training.
    """

    def __init__(self, options: FinetuneOptions, data: TrainingData, centres: Tensor) -> None:
        self.classes, self.smoothing = len(data.identities), options.label_smoothing
        self.verified = data.task == RECOGNITION
        self.head = make_head(options, centres).to(centres.device)
        self.weights: Tensor | None = None
        if options.balance == "loss":  # every class counts alike; over the images the weights' mean is 1
            classes, labels = np.arange(self.classes), data.train.labels
            weights = compute_class_weight("balanced", classes=classes, y=labels).astype(np.float32)
            self.weights = torch.from_numpy(weights).to(centres.device)

    def known(self, labels: Tensor) -> Tensor:
        """Which images have a class that is trained on, N."""
        return labels < self.classes

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Losses (N) of logits with margin (N×classes)."""
        losses = cross_entropy(logits, labels, reduction="none", label_smoothing=self.smoothing)
        return losses if self.weights is None else losses * self.weights[labels]

    def correct(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """How many images have their own class as the likeliest; a single number."""
        logits: Tensor = self.head(embeddings)
        return (logits.argmax(1) == labels).sum()

    def evidence(self, embeddings: Tensor) -> Tensor:
        """What `auc` needs of images: unit-length embeddings (N×D); nothing (N×0) where nobody is verified."""
        return normalize(embeddings) if self.verified else embeddings[:, :0]

    def auc(self, evidence: NDArray[np.float32], labels: NDArray[np.int64]) -> float | None:
        """Area under the ROC curve over pairs of the first VERIFIED images, strangers among them; None where pairs are
        of one kind."""
        if not self.verified:
            return None
        embeddings = evidence[:VERIFIED]
        pairs = all_pairs(labels[:VERIFIED], PAIRS)
        if not np.isfinite(embeddings).all() or pairs.same.all() or not pairs.same.any():
            return None
        return float(verification(pairs.scores(embeddings), pairs.same).auc)


class AttributeObjective:
    """Many binary labels at once: a linear head with one output for each, and binary cross entropy or focal loss.

    Labels that are not known have no loss, and an image's loss is the mean over its known ones. The head starts at the
    frequencies of the training images, whatever the embedding.
    """

    def __init__(self, options: FinetuneOptions, data: TrainingData, size: int, device: torch.device) -> None:
        self.gamma = options.focal_gamma
        self.targets = torch.from_numpy(data.targets).to(device)
        positives, negatives = counts(data.targets[data.train.labels])
        weights = positive_weights(positives, negatives) if options.balance == "loss" else np.ones(len(positives))
        # Without anything to go by, the weighted loss is least at these odds; one more of each keeps them finite.
        odds = np.log(weights * (positives + 1) / (negatives + 1))
        self.weights = torch.from_numpy(weights.astype(np.float32)).to(device)
        self.head: nn.Module = LinearHead(torch.zeros(len(odds), size), torch.from_numpy(odds)).to(device)

    def known(self, labels: Tensor) -> Tensor:
        """All images, N: at least one label of each is known."""
        return torch.ones_like(labels, dtype=torch.bool)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Losses (N) of logits (N×L)."""
        targets = self.targets[labels]
        known = targets != UNKNOWN
        each = focal_loss(logits, targets.clamp(min=0).to(logits.dtype), self.gamma, self.weights)
        return torch.where(known, each, 0).sum(1) / known.sum(1)

    def correct(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The images' shares of known labels that are right at a score of 0.5, added up; a single number."""
        targets = self.targets[labels]
        known = targets != UNKNOWN
        correct: Tensor = ((self.head(embeddings) > 0) == (targets == 1)) & known
        return (correct.sum(1).double() / known.sum(1)).sum()

    def evidence(self, embeddings: Tensor) -> Tensor:
        """The images' logits, N×L."""
        logits: Tensor = self.head(embeddings)
        return logits

    def auc(self, evidence: NDArray[np.float32], labels: NDArray[np.int64]) -> float | None:
        """Mean area under the ROC curve over the labels that have both values; None where none has."""
        if not np.isfinite(evidence).all():
            return None
        targets = self.targets.cpu().numpy()[labels]
        found = []
        for scores, truth in zip(evidence.T, targets.T, strict=True):
            known = truth != UNKNOWN
            if len(np.unique(truth[known])) == 2:
                found.append(roc_auc_score(truth[known], scores[known]))
        return float(np.mean(found)) if found else None


class Distillation:
    """A loss on the distance to what the starting network, the teacher, makes of the clean crop."""

    def __init__(self, teacher: nn.Module, model: FaceModel, weight: float) -> None:
        self._teacher, self._model, self._weight = teacher, model, weight

    def losses(self, embeddings: Tensor, clean: Tensor) -> Tensor:
        """Weighted 1 − cosine between embeddings (N×D) and the teacher's of the clean crops (N×3×H×W); N."""
        with torch.no_grad():
            target = self._teacher(self._model.prepare(clean)).float()
        return self._weight * (1 - cosine_similarity(embeddings.float(), target))


class Scores(nn.Module):
    """Scores of raw embeddings, 0 to 1, as a model of attributes or classes gives them, on the CPU.

    `weight` (L×D) and `bias` (L) are the head's: logits are weight · embedding + bias. Those of a margin head want
    the embedding at unit length, and have the scale in them.

    Args:
        head: of an objective, without sub-centres; it is copied.
        sigmoid: each output by itself (attributes); else all together make 1 (classes).
    """

    def __init__(self, head: nn.Module, sigmoid: bool) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        self.unit, self.sigmoid = isinstance(head, MarginHead | AdaptiveHead), sigmoid
        state = {name: value.detach().cpu().clone() for name, value in head.state_dict().items()}
        if isinstance(head, MarginHead | AdaptiveHead):
            state = {"weight": head.scale * normalize(state["weight"]), "bias": torch.zeros(len(state["weight"]))}
        for name, value in state.items():
            self.register_buffer(name, value)

    def forward(self, embeddings: Tensor) -> Tensor:
        """N×L scores of N×D embeddings."""
        logits = linear(normalize(embeddings) if self.unit else embeddings, self.weight, self.bias)
        return logits.sigmoid() if self.sigmoid else logits.softmax(1)


def focal_loss(logits: Tensor, targets: Tensor, gamma: float, weights: Tensor) -> Tensor:
    """Binary cross entropy of each output times (1 − p)^γ for the p of the true value (Lin et al., arXiv 1708.02002).

    Args:
        logits, targets: N×L; targets are 0 and 1.
        gamma: γ; 0 leaves the cross entropy as it is.
        weights: of positives, L.
    """
    losses = binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=weights)
    if gamma == 0:
        return losses
    # log(1 − p) of the true value, which keeps its gradient where p is 1 in float32.
    return losses * torch.exp(-gamma * softplus((2 * targets - 1) * logits))


def counts(targets: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positives and negatives of each label (L) in N×L targets."""
    return (targets == 1).sum(0), (targets == 0).sum(0)


def positive_weights(positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> NDArray[np.float64]:
    """negatives / positives of each label, MOST_WEIGHT at most; 1 where there are none of either."""
    both = (positives > 0) & (negatives > 0)
    return np.where(both, np.minimum(negatives / np.maximum(positives, 1), MOST_WEIGHT), 1.0)


def repeat_factors(targets: NDArray[np.int8]) -> NDArray[np.float64]:
    """How much more often than others each image is to be drawn (N, at least 1), given its labels (N×L).

    max(1, √(RARE / f)) for the share f of images with its rarest positive label (LVIS, arXiv 1908.03195, section 4.2).
    """
    positives, negatives = counts(targets)
    share = positives / np.maximum(positives + negatives, 1)
    factors = np.sqrt(np.maximum(1.0, RARE / np.maximum(share, 1 / max(1, len(targets)))))
    return np.asarray(np.where(targets == 1, factors, 1.0).max(axis=1, initial=1.0), np.float64)
