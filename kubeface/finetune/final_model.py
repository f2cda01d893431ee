"""The model that a training ends with: the best epoch, interpolated with the start and quality-routed as asked for."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from kubeface.faces.degradation import Degradation
from kubeface.finetune.checkpoints import Checkpoints, Tensors, part
from kubeface.finetune.interpolation import choose_alpha, interpolated
from kubeface.finetune.objectives import Scores
from kubeface.finetune.quality_gate import GATE_CROPS, fine_structure_of, fit_quality_routing
from kubeface.finetune.trainer import Trainer
from kubeface.models.quality_routing import QualityRouted
from kubeface.records.model import GateErrors
from kubeface.runtime.errors import require
from kubeface.tables.row_index import RowIndex

WITHOUT_PAIRS = "wise_ft=auto needs validation images of at least two people, two of one of them: set another wise_ft"


@dataclass(frozen=True)
class Assembly:
    """How the final model was put together.

    Args:
        alpha: share of the trained weights in the interpolation with the starting ones.
        scores: validation AUC by share, where it was chosen; empty otherwise.
        gate: errors of quality routing; None without.
    """

    alpha: float
    scores: dict[str, float]
    gate: GateErrors | None


def assemble(trainer: Trainer, best: Tensors) -> Assembly:
    """Makes the model of the best epoch, which the trainer's model then holds.

    Args:
        trainer: of the training that is done.
        best: backbone of the best epoch.

    Raises:
        KubefaceError: no pairs of validation images to choose the interpolation on.
    """
    setup = trainer.setup
    began, network = setup.model.network, trainer.unwrapped()

    def use(tensors: Tensors) -> nn.Module:
        network.load_state_dict(tensors)
        return network

    def score(tensors: Tensors) -> float:
        # A dictionary, as all processes must measure in the same order.
        kinds = dict.fromkeys((setup.degradation, Degradation()))
        aucs = [trainer.validator.auc(use(tensors), kind) for kind in kinds]
        require(None not in aucs, WITHOUT_PAIRS)
        return float(np.mean([value for value in aucs if value is not None]))

    scores: dict[str, float] = {}
    if setup.options.wise_ft == "auto":
        alpha, scores = choose_alpha(trainer.start, best, score)
    else:
        alpha = setup.options.wise_ft
    use(interpolated(trainer.start, best, float(alpha)))
    gate: GateErrors | None = None
    if setup.options.guard or isinstance(began, QualityRouted):
        start = began.start if isinstance(began, QualityRouted) else copy.deepcopy(network)
        if not isinstance(began, QualityRouted):
            start.load_state_dict(trainer.start)
        network, gate = _routed(trainer, start, network)
    setup.model.network = network.eval().requires_grad_(False)
    return Assembly(alpha, scores, gate)


def score_heads(trainer: Trainer, store: Checkpoints, best: Tensors, initial: Scores) -> tuple[Scores, Scores]:
    """What makes scores of the final model's embeddings, and of the starting one's.

    Args:
        trainer: of the training that is done.
        store: its checkpoints.
        best: the best epoch's weights.
        initial: the head at the start, which is all there is from scratch.
    """
    epoch = trainer.state.best.epoch
    if trainer.state.history[epoch - 1]["stage"] == 1 and 2 in trainer.stages:
        print(
            "finetune: training the backbone did not help on the validation images: the model is the starting "
            f"backbone with the head of epoch {epoch}",
            flush=True,
        )

    def scores(tensors: Tensors) -> Scores:
        trainer.head.load_state_dict(tensors)
        return Scores(trainer.head, initial.sigmoid)

    return scores(part("head", best)), scores(store.head()) if 1 in trainer.stages else initial


def _routed(trainer: Trainer, start: nn.Module, tuned: nn.Module) -> tuple[nn.Module, GateErrors]:
    """Both networks behind a gate that was fitted on training crops and measured on validation crops."""
    setup = trainer.setup
    found: list[Tensor] = []
    for index in (setup.data.train, setup.data.val):
        pairs = list(islice(_crop_pairs(trainer, index), -(-GATE_CROPS // setup.options.batch_size)))
        for side in (0, 1):
            shares = setup.group.gather(fine_structure_of([pair[side] for pair in pairs]).cpu())
            found.append(torch.cat(shares).to(trainer.device))
    return fit_quality_routing(start, tuned, *found)


def _crop_pairs(trainer: Trainer, index: RowIndex) -> Iterator[tuple[Tensor, Tensor]]:
    """Crops as they are and degraded, where both are not the same."""
    setup = trainer.setup
    degraded_ones = index if setup.degradation else index.low()
    for clean, degraded, _ in trainer.loader.in_order(degraded_ones, setup.degradation):
        yield setup.model.prepare(clean), setup.model.prepare(degraded)
