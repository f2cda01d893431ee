"""The model that a training ends with: the best epoch, interpolated with the start and quality-routed as asked for."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from kubeface.faces.degradation import Degradation
from kubeface.finetune.checkpoints import Checkpoints, Tensors, part
from kubeface.finetune.objectives import Scores
from kubeface.finetune.trainer import Trainer
from kubeface.models.quality_routing import QualityRouted, fine_structure
from kubeface.records.model import GateErrors
from kubeface.runtime.errors import require

ALPHAS = tuple(number / 10 for number in range(11))
# Crops that the gate learns from; it has five numbers to learn, which hardly need regularisation. With scikit-learn's
# own, C = 1, it took low-resolution crops that hold the photograph's sharp border for clean ones.
GATE_CROPS = 2000
GATE_C = 100.0
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
    """Makes the model of the best epoch, given its backbone; the trainer's model then holds it.

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
    if isinstance(began, QualityRouted):
        network, gate = _routed(trainer, began.start, network)
    elif setup.options.guard:
        start = copy.deepcopy(network)
        start.load_state_dict(trainer.start)
        network, gate = _routed(trainer, start, network)
    setup.model.network = network.eval().requires_grad_(False)
    return Assembly(alpha, scores, gate)


def score_heads(trainer: Trainer, store: Checkpoints, best: Tensors, initial: Scores) -> tuple[Scores, Scores]:
    """What makes scores of the final model's embeddings, and of the starting one's: the best head of stage 1, from
    scratch the initial one."""
    epoch = trainer.state.best.epoch
    if trainer.state.history[epoch - 1].stage == 1 and 2 in trainer.stages:
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
        degraded_ones = index if setup.degradation else index.low()  # the others are the same clean and degraded
        batches = trainer.loader.in_order(degraded_ones, setup.degradation)
        pairs = list(islice(batches, -(-GATE_CROPS // setup.options.batch_size)))
        for side in (0, 1):
            rows = [fine_structure(setup.model.prepare(pair[side])).cpu() for pair in pairs]
            shares = setup.group.gather(torch.cat(rows) if rows else torch.zeros(0, 4))
            found.append(torch.cat(shares).to(trainer.device))
    return fit_quality_routing(start, tuned, *found)


def fit_quality_routing(
    start: nn.Module, tuned: nn.Module, clean: Tensor, degraded: Tensor, val_clean: Tensor, val_degraded: Tensor
) -> tuple[QualityRouted, GateErrors]:
    """A quality-routed model whose gate tells degraded from clean crops by logistic regression.

    Args:
        clean, degraded: fine structure (N×4) of training crops.
        val_clean, val_degraded: the same of validation crops, to measure the gate.
    """
    require(len(clean) > 0 and len(degraded) > 0, "guard needs clean and degraded crops: set degradation")
    rows = torch.cat([clean, degraded]).double().cpu()
    truth = torch.cat([torch.zeros(len(clean)), torch.ones(len(degraded))])
    mean, spread = rows.mean(0), rows.std(0).clamp(min=1e-6)
    fitted = LogisticRegression(C=GATE_C, class_weight="balanced").fit(((rows - mean) / spread).numpy(), truth.numpy())
    weight = torch.from_numpy(fitted.coef_[0]) / spread
    model = QualityRouted(start, tuned).to(clean.device)
    with torch.no_grad():
        model.weight.copy_(weight)
        model.bias.fill_(float(fitted.intercept_[0]) - float(weight @ mean))
    wrong = {
        name: float(((found @ model.weight + model.bias > 0) != is_degraded).double().mean()) if len(found) else None
        for name, found, is_degraded in (("clean", val_clean, False), ("degraded", val_degraded, True))
    }
    return model, GateErrors(wrong_clean=wrong["clean"], wrong_degraded=wrong["degraded"])


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
