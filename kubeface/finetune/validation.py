"""Loss, accuracy and AUC over the validation images."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kubeface.faces.degradation import Degradation
from kubeface.finetune.data import CropLoader
from kubeface.finetune.objectives import AttributeObjective, ClassificationObjective, Distillation
from kubeface.finetune.state import Validation
from kubeface.finetune.training_data import TrainingSetup


class Validator:
    """Measures networks on the validation images."""

    def __init__(
        self,
        setup: TrainingSetup,
        loader: CropLoader,
        objective: ClassificationObjective | AttributeObjective,
        distillation: Distillation | None,
        autocast: torch.autocast,
    ) -> None:
        self._data, self._model, self._group, self._degradation = (
            setup.data, setup.model, setup.group, setup.degradation,
        )  # fmt: skip
        self._loader, self._objective, self._distillation, self._autocast = loader, objective, distillation, autocast

    @torch.no_grad()
    def validate(self, network: nn.Module) -> Validation:
        """Loss and accuracy over the images with a known label, and the task's AUC over all of them."""
        if not len(self._data.val):
            return Validation()
        network.eval()
        objective = self._objective
        sums = torch.zeros(3, dtype=torch.float64)
        evidence: list[NDArray[np.float32]] = []
        seen: list[NDArray[np.int64]] = []
        for clean, degraded, labels in self._loader.in_order(self._data.val, self._degradation):
            with self._autocast:
                embeddings = network(self._model.prepare(degraded)).float()
            evidence.append(objective.evidence(embeddings).cpu().numpy())
            seen.append(labels.cpu().numpy())
            known = objective.known(labels)
            if known.any():
                sums += self._sums(embeddings[known], labels[known], clean[known])
        loss, correct, count = self._group.sum(sums).tolist()
        auc = self._auc(evidence, seen)
        return Validation(0, loss / count, correct / count, auc) if count else Validation(val_auc=auc)

    def _sums(self, embeddings: Tensor, labels: Tensor, clean: Tensor) -> Tensor:
        """Sum of the losses, correct answers and number of images of a batch, float64 on the CPU."""
        losses = self._objective.losses(self._objective.head(embeddings, labels), labels)
        if self._distillation is not None:
            losses = losses + self._distillation.losses(embeddings, clean)
        correct = self._objective.correct(embeddings, labels).double()
        return torch.stack([losses.double().sum(), correct, correct.new_tensor(len(labels))]).cpu()

    @torch.no_grad()
    def auc(self, network: nn.Module, degradation: Degradation) -> float | None:
        """The task's AUC over the validation images under a degradation."""
        evidence, seen = [], []
        for _, degraded, labels in self._loader.in_order(self._data.val, degradation):
            embeddings = network.eval()(self._model.prepare(degraded)).float()
            evidence.append(self._objective.evidence(embeddings).cpu().numpy())
            seen.append(labels.cpu().numpy())
        return self._auc(evidence, seen)

    def _auc(self, evidence: list[NDArray[np.float32]], seen: list[NDArray[np.int64]]) -> float | None:
        """The task's AUC over all processes' images, in the order that one process has them in.

        Args:
            evidence: the objective's evidence of this process's batches, of which there may be none.
            seen: the label of each.
        """
        shares = [share for share in self._group.gather((evidence, seen)) if share[0]]
        every = [(np.concatenate(batches), np.concatenate(labels)) for batches, labels in shares]
        order = np.argsort(
            np.concatenate([rank + self._group.size * np.arange(len(rows)) for rank, (_, rows) in enumerate(every)])
        )
        rows = np.concatenate([batches for batches, _ in every])[order]
        return self._objective.auc(rows, np.concatenate([labels for _, labels in every])[order])
