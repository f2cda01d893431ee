"""Distillation: the trained model is held to what the starting model makes of the clean crop."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from kubeface.models.model import FaceModel


class Distillation:
    """A loss on the distance to the starting model.

    Args:
        teacher: the starting network, which stays as it is.
        model: prepares crops.
        weight: of the loss.
    """

    def __init__(self, teacher: nn.Module, model: FaceModel, weight: float) -> None:
        self._teacher, self._model, self._weight = teacher, model, weight

    def losses(self, embeddings: Tensor, clean: Tensor) -> Tensor:
        """Weighted 1 − cosine between embeddings (N×D) and the teacher's of the clean crops (N×3×H×W); N."""
        with torch.no_grad():
            target = self._teacher(self._model.prepare(clean)).float()
        return self._weight * (1 - cosine_similarity(embeddings.float(), target))
