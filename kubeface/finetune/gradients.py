"""Gradients of a batch: computed in parts where memory does not suffice, and added up."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kubeface.finetune.objectives import AttributeObjective, ClassificationObjective, Distillation
from kubeface.finetune.state import TrainingState
from kubeface.finetune.training_data import TrainingSetup
from kubeface.runtime.errors import KubefaceError, require


class NotFinite(KubefaceError):
    """A loss or weight that is infinite or not a number: the rate was too high."""


@dataclass
class Gradients:
    """Computes the gradients of one stage.

    Args:
        learner: backbone and head, wrapped where several processes train.
        least: images that a part needs.
    """

    setup: TrainingSetup
    learner: nn.Module
    objective: ClassificationObjective | AttributeObjective
    distillation: Distillation | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    autocast: torch.autocast
    least: int

    def agree_on_parts(self, batch: list[Tensor], whole: int, label: str, state: TrainingState) -> None:
        """Tries a batch in each process by itself; all go on with as many parts as the one that needs most."""
        with self.learner.no_sync():  # type: ignore[operator]
            self.compute(batch, whole, label, state)
        if (most := max(self.setup.group.gather(state.accumulate))) > state.accumulate:
            self._use_parts(most, label, state)

    def compute(self, batch: list[Tensor], whole: int, label: str, state: TrainingState) -> tuple[float, float]:
        """Gradients of a batch; where memory does not suffice, in half as large parts, which add up, from then on.

        Args:
            batch: this process's share: [clean crops,] crops, labels.
            whole: images of the batch over all processes.
            label: of the epoch, for messages.

        Returns:
            Sum of the losses of this process's images, and how many were right.

        Raises:
            NotFinite: the loss.
            KubefaceError: too little memory for the smallest part.
        """
        while True:
            try:
                return self._accumulate(batch, whole, label, state)
            except RuntimeError as error:
                # Under several processes the others would wait for this one's gradients: only the trial run may fail.
                syncing = self.setup.group.size > 1 and self.learner.require_backward_grad_sync
                short = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)  # on a CPU
                if not short or syncing:
                    raise
            require(
                state.accumulate < len(batch[-1]) // self.least,
                f"{label}: out of memory with {self.least} image{'s' * (self.least > 1)} at a time: give the step more "
                "memory",
            )
            if batch[-1].device.type == "cuda":
                torch.cuda.empty_cache()
            self._use_parts(2 * state.accumulate, label, state)

    def _use_parts(self, count: int, label: str, state: TrainingState) -> None:
        state.accumulate = count
        self.setup.announce(
            f"{label}: out of memory, batches of {self.setup.options.batch_size} are now computed in {count} parts "
            f"(accumulate={count})"
        )

    def _accumulate(self, batch: list[Tensor], whole: int, label: str, state: TrainingState) -> tuple[float, float]:
        self.optimizer.zero_grad(set_to_none=True)
        total, correct, processes = 0.0, 0.0, self.setup.group.size
        count = min(state.accumulate, len(batch[-1]) // self.least)
        for number, images in enumerate(zip(*(tensor.tensor_split(count) for tensor in batch), strict=True), 1):
            alone = processes > 1 and number < count
            with self.learner.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
                with self.autocast:
                    embeddings, losses = self._losses(images)
                loss = losses.sum()
                total += float(loss.detach())
                if not math.isfinite(total):
                    rate = self.optimizer.param_groups[0]["lr"]
                    raise NotFinite(
                        f"{label}: the loss is {total} in step {state.step + 1} at rate {rate:.2e}: lower the rate"
                    )
                # Processes average their gradients; what is wanted is the mean over the images of all of them.
                self.scaler.scale(loss * (processes / whole)).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                correct += float(self.objective.correct(embeddings.detach(), images[-1]))
        return total, correct

    def _losses(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embeddings (N×D) and losses (N) of ([clean crops,] crops, labels)."""
        embeddings, logits = self.learner(self.setup.model.prepare(images[-2]), images[-1])
        losses = self.objective.losses(logits, images[-1])
        if self.distillation is not None and len(images) == 3:
            losses = losses + self.distillation.losses(embeddings, images[0])
        return embeddings, losses
